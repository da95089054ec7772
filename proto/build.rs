//! Generates the gRPC and swarm messages into OUT_DIR; needs `protoc` (Debian: protobuf-compiler).

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rpc = std::env::var_os("CARGO_FEATURE_RPC").is_some();
    let files = [
        "proto/longshore/origin/v1/origin.proto",
        "proto/longshore/control/v1/control.proto",
        "proto/longshore/swarm/v1/swarm.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    tonic_prost_build::configure()
        .build_client(rpc)
        .build_server(rpc)
        .bytes(".")
        .compile_protos(&files, &["proto"])?;
    Ok(())
}
