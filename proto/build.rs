//! Generates the Rust code of `proto/` and the descriptors for server reflection. `protox` compiles the files, so
//! no `protoc` need be installed.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const FILES: [&str; 5] = [
    "millrace/v1/values.proto",
    "millrace/v1/features.proto",
    "millrace/v1/scoring.proto",
    "millrace/v1/models.proto",
    // Imports the rest of Feast's.
    "feast/serving/GrpcServer.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    // The comments of the files become the documentation of the Rust types.
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files(FILES)?;
    let folder = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(
        folder.join("services.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
