//! The calls about images that take long: pulls and exports. Both end with their caller.

use domain::replica::Secret;
use futures_util::{StreamExt as _, future, stream};
use skerry_proto::v1;
use tonic::Status;

use super::refusal::troubled;
use super::sources::{Image, ImageStore, PullNews, PullOrder};
use super::streams::Answers;
use crate::clock::rfc3339;

/// Bytes of an archive in one message, at most: containerd's pieces are of this order.
const PART: usize = 1 << 20;

/// What is remarked of a pull that asked nobody.
const IMPORTED: &str = "it came from an archive, and no registry is asked for it";

/// How far a pull is, and what it came to.
pub(super) fn pull<I: ImageStore>(
    images: &I,
    request: v1::ImagesPullRequest,
) -> Answers<v1::ImagesPullReply> {
    let v1::ImagesPullRequest { reference, username, password } = request;
    let login = (!username.is_empty()).then_some((username, Secret(password)));
    let news = images.pull(PullOrder { reference, login });
    news.map(|news| news.map(told).map_err(|trouble| troubled(&trouble))).boxed()
}

fn told(news: PullNews) -> v1::ImagesPullReply {
    match news {
        PullNews::Progress(pull) => v1::ImagesPullReply {
            progress: pull.to_string(),
            bytes: pull.bytes,
            bytes_done: pull.bytes_done,
            ..v1::ImagesPullReply::default()
        },
        PullNews::Here { name, digest, imported } => v1::ImagesPullReply {
            name,
            digest: digest.to_string(),
            warning: if imported { IMPORTED.to_owned() } else { String::new() },
            ..v1::ImagesPullReply::default()
        },
    }
}

/// An archive of images, in parts. The first tells how much is to come.
pub(super) async fn export<I: ImageStore>(
    images: &I,
    request: v1::ImagesExportRequest,
) -> Result<Answers<v1::ImagesExportReply>, Status> {
    if request.references.is_empty() {
        return Err(Status::invalid_argument("no image is named"));
    }
    let exported = images.export(&request.references).await;
    let exported = exported.map_err(|trouble| troubled(&trouble))?;
    let head = v1::ImagesExportReply {
        size_bytes: exported.size_bytes,
        names: exported.names,
        ..v1::ImagesExportReply::default()
    };
    let parts = exported.parts.flat_map(|part| match part {
        Ok(mut bytes) => {
            let mut parts = Vec::new();
            while !bytes.is_empty() {
                let part = bytes.split_to(bytes.len().min(PART)).to_vec();
                parts.push(Ok(v1::ImagesExportReply { part, ..Default::default() }));
            }
            stream::iter(parts).left_stream()
        }
        Err(trouble) => stream::once(future::ready(Err(troubled(&trouble)))).right_stream(),
    });
    Ok(stream::iter([Ok(head)]).chain(parts).boxed())
}

/// An image as it is listed.
pub(super) fn image(image: Image) -> v1::Image {
    let Image { name, digest, size_bytes, platform, imported, preloaded, since, apps } = image;
    let created_time = since.map(rfc3339).unwrap_or_default();
    v1::Image { name, digest, size_bytes, platform, imported, preloaded, created_time, apps }
}
