//! Messages that are broken or too large, and times in them.

use millrace_proto::v1::scoring_service_client::ScoringServiceClient;
use millrace_proto::v1::{Column, ScoreRequest};
use prost_reflect::prost::Message;
use rand::{Rng, SeedableRng};
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use super::{NOON, ask, commit, connect, live, payment, score, serve_model, some_payments, texts};
use crate::serve::{MAX_MESSAGE_BYTES, time_us, timestamp};

/// Frames of any bytes, and answers that are not looked into.
#[derive(Clone, Copy, Default)]
struct RawCodec;

impl tonic::codec::Codec for RawCodec {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(
        &mut self,
        item: Vec<u8>,
        buffer: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for RawCodec {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<()>, Status> {
        let length = bytes::Buf::remaining(buffer);
        bytes::Buf::advance(buffer, length);
        Ok(Some(()))
    }
}

/// Requests that were cut or changed in any place get an answer or a status that blames the request, and the server
/// goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_requests_are_refused_and_nothing_breaks() {
    let live = live();
    commit(&live, &some_payments());
    serve_model(&live);
    let channel = connect(live).await;
    let keys = [
        ("card_id", texts(&["c1", "c2"])),
        ("terminal_id", texts(&["t1", "t1"])),
    ];
    let look_up = ask(
        &["card_activity", "terminal_risk:frauds_7d"],
        &keys,
        Some(NOON),
    )
    .encode_to_vec();
    let amount = Column {
        doubles: vec![f64::NAN],
        nulls: vec![0],
        ..Column::default()
    };
    let typed = ScoreRequest {
        columns: [
            ("amount".to_owned(), amount),
            ("tx_id".to_owned(), texts(&["x"])),
        ]
        .into(),
        top_reasons: Some(2),
        ..ScoreRequest::default()
    };
    let valid = [
        ("/millrace.v1.FeatureService/GetFeatures", look_up.clone()),
        ("/millrace.v1.FeatureService/Prepare", look_up),
        (
            "/millrace.v1.ScoringService/Score",
            score(vec![payment("x", "c1", 1.0, 5)], true).encode_to_vec(),
        ),
        ("/millrace.v1.ScoringService/Score", typed.encode_to_vec()),
        ("/feast.serving.ServingService/GetOnlineFeatures", {
            let text = b"\x12\x1d\n\x1bcard_activity:tx_count_1h\x1a\x14\n\x07card_id\x12\t\n\x03\x12\x01c\n\x02 \x07";
            text.to_vec()
        }),
    ];
    let mut random = rand_pcg::Pcg64::seed_from_u64(11);
    let mut refused = 0;
    for round in 0..1_500 {
        let (path, request) = &valid[round % valid.len()];
        let mut bytes = request.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] = random.random(),
                2 => bytes[at] ^= 1 << random.random_range(0..8),
                _ => bytes.insert(at, random.random()),
            }
        }
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
        let call = grpc.unary(tonic::Request::new(bytes.clone()), path, RawCodec);
        let Err(status) = call.await else { continue };
        refused += 1;
        let blames = matches!(
            status.code(),
            Code::InvalidArgument | Code::NotFound | Code::OutOfRange | Code::FailedPrecondition
        );
        assert!(blames, "{status} for {bytes:?}");
    }
    assert!(refused > 500, "{refused}");
}

/// A message that is too large, of a method that takes one and of one that takes a stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_is_refused() {
    let mut client = ScoringServiceClient::new(connect(live()).await);
    let large = || score(vec!["x".repeat(MAX_MESSAGE_BYTES + 1)], false);
    let status = client.score(large()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let answers = client.score_stream(tokio_stream::once(large())).await;
    let answer = answers.unwrap().into_inner().next().await.unwrap();
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
}

#[test]
fn times_become_messages_and_back() {
    for time in [
        0,
        -1,
        1,
        NOON,
        -62_135_596_800_000_000,
        253_402_300_799_999_999,
    ] {
        assert_eq!(time_us(&timestamp(time)), Some(time));
        assert!((0..1_000_000_000).contains(&timestamp(time).nanos));
    }
    assert_eq!(time_us(&timestamp(253_402_300_800_000_000)), None);
}
