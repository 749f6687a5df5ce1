//! Tells the linker where a binary of this package finds libtorch at run time (tch adds no rpath of
//! its own, and cargo's `[env] LD_LIBRARY_PATH` has no effect). Shared by every crate that links it.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if std::env::var_os("CARGO_FEATURE_TORCH").is_none() {
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
