//! Tells the linker where a binary of this package finds libtorch at run time (tch adds no rpath of
//! its own, and cargo's `[env] LD_LIBRARY_PATH` has no effect). Shared by every crate that links it.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    let has_torch = std::env::var_os("CARGO_FEATURE_TORCH").is_some();
    let is_agent = std::env::var_os("CARGO_PKG_NAME").is_some_and(|name| name == "hanas-agent");
    // An agent without the feature never links libtorch, but its tests are built with hanas-models, which in
    // a workspace build does.
    if !has_torch && !is_agent {
        return;
    }
    let libtorch = std::env::var("LIBTORCH").ok();
    let cuda = libtorch.as_ref().map(|libtorch| Path::new(libtorch).join("lib/libtorch_cuda.so"));
    let cuda = cuda.filter(|cuda| has_torch && is_agent && cuda.exists());
    let rpath = |path: &str| println!("cargo::rustc-link-arg=-Wl,-rpath,{path}");
    // Before a libtorch of the processor alone, which `make setup` may have put there.
    if let (Some(libtorch), Some(cuda)) = (&libtorch, &cuda) {
        rpath(&format!("{libtorch}/lib"));
        // No symbol of it is named, so the linker would leave it out, and libtorch find no GPU.
        let cuda = cuda.display();
        println!("cargo::rustc-link-arg-bins=-Wl,--push-state,--no-as-needed,{cuda},--pop-state");
    }
    // target/release/hanas and target/release/deps/test-hash: both survive a moved checkout.
    for up in ["../..", "../../.."] {
        rpath(&format!("$ORIGIN/{up}/third_party/libtorch/lib"));
    }
    if let (Some(libtorch), None) = (libtorch, cuda) {
        rpath(&format!("{libtorch}/lib"));
    }
}
