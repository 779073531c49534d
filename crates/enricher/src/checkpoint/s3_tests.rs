//! Checkpoints against a server that speaks as much of S3's protocol as they need.
#![allow(clippy::unwrap_used)] // the lint spares only functions marked as tests, not their helpers

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use axum::{
    Router,
    body::Bytes as Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::*;

const BUCKET: &str = "/bucket/";

/// Objects and parts of uploads by their keys.
#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<u32, Vec<u8>>,
}

async fn serve(State(bucket): State<Arc<Mutex<Bucket>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    assert!(
        head.headers.contains_key(header::AUTHORIZATION),
        "every request is signed"
    );
    let body: Body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let key = head
        .uri
        .path()
        .strip_prefix(BUCKET)
        .unwrap_or_default()
        .to_owned();
    let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
    let etag = [(header::ETAG, "\"1\"")];
    match head.method {
        Method::GET if query.contains_key("list-type") => list(&bucket, &query["prefix"]),
        Method::GET => get(&bucket, &key, &head.headers),
        Method::PUT => {
            match query.get("partNumber") {
                Some(number) => bucket.parts.insert(number.parse().unwrap(), body.to_vec()),
                None => bucket.objects.insert(key, body.to_vec()),
            };
            etag.into_response()
        }
        Method::POST if query.contains_key("uploads") => {
            "<InitiateMultipartUploadResult><UploadId>7</UploadId></InitiateMultipartUploadResult>"
                .into_response()
        }
        Method::POST if query.contains_key("uploadId") => {
            let parts = std::mem::take(&mut bucket.parts);
            bucket
                .objects
                .insert(key, parts.into_values().flatten().collect());
            "<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
                .into_response()
        }
        Method::POST if query.contains_key("delete") => {
            let text = String::from_utf8(body.to_vec()).unwrap();
            let keys = text
                .split("<Key>")
                .skip(1)
                .filter_map(|rest| rest.split_once("</Key>"));
            let deleted = keys.map(|(key, _)| {
                bucket.objects.remove(key);
                format!("<Deleted><Key>{key}</Key></Deleted>")
            });
            let deleted: String = deleted.collect();
            format!("<DeleteResult>{deleted}</DeleteResult>").into_response()
        }
        Method::DELETE => {
            bucket.objects.remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
        other => panic!("{other} is not expected"),
    }
}

fn list(bucket: &Bucket, prefix: &str) -> Response {
    let objects = bucket
        .objects
        .iter()
        .filter(|(key, _)| key.starts_with(prefix));
    let entry = |(key, bytes): (&String, &Vec<u8>)| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
             <ETag>1</ETag><Size>{}</Size></Contents>",
            bytes.len()
        )
    };
    let entries: String = objects.map(entry).collect();
    format!("<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>")
        .into_response()
}

fn get(bucket: &Bucket, key: &str, headers: &HeaderMap) -> Response {
    let Some(bytes) = bucket.objects.get(key) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = headers[header::RANGE].to_str().unwrap();
    let (first, last) = range
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let range = format!("bytes {first}-{last}/{}", bytes.len());
    let headers = [
        (header::CONTENT_RANGE, range.as_str()),
        (header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT"),
        (header::ETAG, "\"1\""),
    ];
    (
        StatusCode::PARTIAL_CONTENT,
        headers,
        bytes[first..=last].to_vec(),
    )
        .into_response()
}

#[tokio::test]
async fn checkpoints_go_to_a_bucket_and_come_back_and_old_ones_are_deleted() {
    let bucket = Arc::new(Mutex::new(Bucket::default()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .fallback(serve)
        .with_state(Arc::clone(&bucket));
    tokio::spawn(async { axum::serve(listener, router).await });
    let variables = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let url = Url::parse("s3://bucket/some/prefix").unwrap();
    let (store, root, folder) = s3(&url, variables.to_vec()).unwrap();
    let checkpoints = Checkpoints {
        store,
        root,
        folder,
        interval: Duration::ZERO,
        turn: Arc::new(Semaphore::new(1)),
    };
    assert!(!format!("{checkpoints:?}").contains("hunter2"));

    let partition = checkpoints.partition("chat.raw", 3);
    let mut bytes = Vec::new();
    for offset in [5, 6, 7] {
        // The last one in three parts.
        let chunks = vec![Bytes::from(vec![offset as u8; PART]); if offset == 7 { 3 } else { 1 }];
        bytes = chunks.concat();
        let path = partition.clone().join(name(offset));
        checkpoints.put(&path, chunks).await.unwrap();
        checkpoints.prune(&partition, offset).await.unwrap();
    }
    let found = checkpoints.list(&partition).await.unwrap();
    let offsets: Vec<_> = found.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [7, 6]);
    let newest = &found[0].1;
    assert_eq!(
        newest.location.as_ref(),
        "some/prefix/chat.raw/3/00000000000000000007.checkpoint"
    );
    let got = checkpoints
        .store
        .get_range(&newest.location, 0..newest.size)
        .await
        .unwrap();
    assert!(got == bytes, "{} bytes came back", got.len());
}
