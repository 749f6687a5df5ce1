//! Tells the linker where a binary of this package finds libtorch at run time (tch adds no rpath of
//! its own, and cargo's `[env] LD_LIBRARY_PATH` has no effect). Shared by every crate that links it.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    // The agent itself never links libtorch, but its tests are built with hanas-models, which in a
    // workspace build does.
    let for_tests = std::env::var_os("CARGO_PKG_NAME").is_some_and(|name| name == "hanas-agent");
    if std::env::var_os("CARGO_FEATURE_TORCH").is_none() && !for_tests {
        return;
    }
    // target/release/hanas and target/release/deps/test-hash: both survive a moved checkout.
    for up in ["../..", "../../.."] {
        println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/{up}/third_party/libtorch/lib");
    }
    if let Ok(libtorch) = std::env::var("LIBTORCH") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
    }
}
