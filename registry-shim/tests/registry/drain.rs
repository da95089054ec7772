//! The end: SIGTERM tells load balancers, lets pushes under way finish, and comes to exit 0.

use reqwest::{Client, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::common::{PATIENCE, content, header, sha256, until};
use crate::program::Program;

async fn until_not_ready(program: &Program) {
    let not_ready = async || program.ready().await.0 == StatusCode::SERVICE_UNAVAILABLE;
    until("it is not ready", not_ready).await;
    assert_eq!(program.ready().await.1, "draining\n");
}

#[tokio::test]
async fn a_push_under_way_at_sigterm_is_finished_and_nobody_new_is_let_in() {
    let mut program = Program::start(&[]);
    let base = format!("http://{}", program.address);
    let begin = program.client.post(format!("{base}/v2/apps/web/blobs/uploads/"));
    let location = header(&begin.send().await.unwrap(), "location");
    let blob = content(1 << 20, 3);
    let mut push = TcpStream::connect(program.address).await.unwrap();
    let put = format!(
        "PUT {location}?digest={} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        sha256(&blob),
        blob.len()
    );
    push.write_all(put.as_bytes()).await.unwrap();
    // The invitation proves that the push is under way.
    let mut invited = [0; 25];
    push.read_exact(&mut invited).await.unwrap();
    assert_eq!(&invited, b"HTTP/1.1 100 Continue\r\n\r\n");
    push.write_all(&blob[..1000]).await.unwrap();

    program.terminate();
    until_not_ready(&program).await;
    let refused = async {
        while TcpStream::connect(program.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
    push.write_all(&blob[1000..]).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, push.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    program.client = Client::builder().no_proxy().build().unwrap();
    assert_eq!(program.ended().await.code(), Some(0));
}

#[tokio::test]
async fn load_balancers_have_time_to_notice_and_a_second_sigterm_cuts_it() {
    let mut program = Program::start(&["--serve-drain-delay-ms=600000"]);
    program.terminate();
    until_not_ready(&program).await;
    let alive = program.client.get(format!("http://{}/livez", program.admin)).send().await;
    assert_eq!(alive.unwrap().status(), StatusCode::OK);
    let late = program.client.get(format!("http://{}/v2/", program.address)).send().await;
    assert_eq!(late.unwrap().status(), StatusCode::OK, "it serves whoever still comes");

    program.terminate();
    assert_eq!(program.ended().await.code(), Some(0));
}
