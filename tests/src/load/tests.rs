//! The generator against a server of a few lines, whose answers are known.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::{Kind, Load, Pace, Script, Step, run};

/// Answers each request with what `answer` makes of its number and its head.
fn serve(answer: fn(usize, &str) -> String) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, seen) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let heads = heads.clone();
            std::thread::spawn(move || talk(stream.unwrap(), answer, &heads));
        }
    });
    (address, seen)
}

fn talk(
    mut stream: TcpStream,
    answer: fn(usize, &str) -> String,
    heads: &std::sync::mpsc::Sender<String>,
) {
    let (mut head, mut byte, mut number) = (String::new(), [0], 0);
    while stream.read_exact(&mut byte).is_ok() {
        head.push(char::from(byte[0]));
        if head.ends_with("\r\n\r\n") {
            let _ = heads.send(head.clone());
            let text = answer(number, &head);
            if text.is_empty() || stream.write_all(text.as_bytes()).is_err() {
                return;
            }
            number += 1;
            head.clear();
        }
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn step(kind: Kind, path: &str, status: u16) -> Step {
    Step::new(kind, "GET", path, "registry", &["Accept: */*"], status)
}

fn load(address: SocketAddr, connections: usize, script: &Script, pace: Pace) -> super::Outcome {
    let duration = Duration::from_millis(300);
    run(&Load { address, connections, script, pace, duration }).unwrap()
}

#[test]
fn the_token_of_the_first_answer_goes_with_every_other_request() {
    let (address, seen) =
        serve(
            |_, head| {
                if head.starts_with("GET /token ") { ok(r#"{"token":"t0k"}"#) } else { ok("{}") }
            },
        );
    let steps = vec![step(Kind::Token, "/token", 200), step(Kind::Tag, "/m", 200)];
    let outcome = load(address, 2, &Script { steps }, Pace::Closed);
    assert_eq!((outcome.errors, outcome.first_error.as_deref()), (0, None));
    assert!(outcome.of(Kind::Tag) > 0 && outcome.of(Kind::Token) > 0);
    for head in seen.try_iter() {
        let bears = head.contains("Authorization: Bearer t0k\r\n");
        assert_eq!(bears, head.starts_with("GET /m "), "{head}");
    }
}

#[test]
fn wrong_statuses_and_broken_connections_are_errors_and_the_load_goes_on() {
    let (address, _seen) = serve(|number, _| match number {
        0 => "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_owned(),
        1 => ok(""),
        _ => String::new(),
    });
    let steps = vec![step(Kind::Tag, "/m", 200)];
    let outcome = load(address, 1, &Script { steps }, Pace::Closed);
    assert_eq!(outcome.first_error.as_deref(), Some("manifest by tag: status 503 and not 200"));
    assert!(outcome.errors >= 3, "a status, a broken connection, and the next one's status");
    assert!(outcome.total() >= 2, "it connected again");
}

#[test]
fn an_answer_to_head_has_a_length_and_no_body() {
    let (address, _seen) =
        serve(|_, _| "HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n".to_owned());
    let step = Step::new(Kind::Layer, "HEAD", "/b", "registry", &[], 200);
    let outcome = load(address, 3, &Script { steps: vec![step] }, Pace::Closed);
    assert_eq!(outcome.errors, 0);
    assert!(outcome.of(Kind::Layer) > 0);
}

#[test]
fn an_open_loop_counts_from_when_a_request_was_due() {
    // The only connection is held up once; what was due meanwhile has waited for it.
    let (address, _seen) = serve(|number, _| {
        if number == 0 {
            let (_never, held) = channel::<()>();
            let _ = held.recv_timeout(Duration::from_millis(200));
        }
        ok("")
    });
    let steps = vec![step(Kind::Tag, "/m", 200)];
    let outcome = load(address, 1, &Script { steps }, Pace::Open { per_second: 100.0 });
    assert_eq!(outcome.errors, 0);
    let waited = outcome.latency.count_between(50_000, 60_000_000);
    assert!(waited >= 10, "{waited} requests were due in the first 150 ms");
}
