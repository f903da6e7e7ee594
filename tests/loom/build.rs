//! Says that this is a model.

fn main() {
    println!("cargo::rustc-cfg=loom");
}
