//! Generates the types of `proto/` and gives them the JSON shape that the contract asks for.

/// 64-bit integers, which stand as strings in JSON.
const WIDE: &[&str] = &[
    "AppStatus.generation",
    "JobStatus.generation",
    "EnvironmentStatus.generation",
    "DeviceStatus.epoch",
    "Hello.epoch",
    "KnownApp.generation",
    "Event.id",
    "Image.size_bytes",
    "ImagesPullReply.bytes",
    "ImagesPullReply.bytes_done",
    "ImagesExportReply.size_bytes",
    "RevisionStatus.standby_memory_bytes",
];

fn main() -> std::io::Result<()> {
    let mut builder = tonic_prost_build::configure()
        .btree_map(".")
        .skip_debug([
            ".skerry.v1.SecretRequest",
            ".skerry.v1.ApplyRequest",
            ".skerry.v1.ImagesPullRequest",
            ".externalscaler.ScaledObjectRef",
        ])
        .type_attribute(".skerry.v1", "#[derive(serde::Serialize, serde::Deserialize)]")
        .type_attribute(".skerry.v1", "#[serde(rename_all = \"camelCase\", default)]");
    for field in WIDE {
        builder = builder
            .field_attribute(format!(".skerry.v1.{field}"), "#[serde(with = \"crate::wide\")]");
    }
    let ours = ["agent", "status", "record"].map(|name| format!("proto/skerry/v1/{name}.proto"));
    let theirs = ["proto/externalscaler.proto".to_owned()];
    builder.compile_protos(&[&ours[..], &theirs].concat(), &["proto".to_owned()])
}
