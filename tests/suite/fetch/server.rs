//! A web server on loopback that can misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use edge_tune::delta::digest;

/// What is wrong with one file.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection ends after so many bytes of each answer.
    Cut(usize),
    /// More and more bytes, without a length.
    Endless,
    /// The length in the header is larger than it should be.
    Longer,
    /// Answers with all of it, whatever part was asked for.
    NoRange,
    /// Answers with another part.
    WrongRange,
    /// Fails with this status so many times.
    Status(u16, usize),
    /// A few bytes, and then a pause, again and again.
    Slow,
    /// Says nothing.
    Silent,
    /// Sends elsewhere.
    Redirect(String),
    /// Claims that nothing has changed, whatever is asked.
    Unchanged,
}

/// One request that was answered.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub status: u16,
    pub range: Option<String>,
    pub if_range: bool,
    pub sent: usize,
}

#[derive(Default)]
struct Shared {
    files: Mutex<HashMap<String, Vec<u8>>>,
    faults: Mutex<HashMap<String, Fault>>,
    seen: Mutex<Vec<Seen>>,
    stop: AtomicBool,
}

pub struct Server {
    pub url: String,
    shared: Arc<Shared>,
}

impl Server {
    pub fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared::default());
        let server = Server { url, shared: shared.clone() };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.stop.load(Ordering::Relaxed) {
                    break;
                }
                let shared = shared.clone();
                // A client that goes away is no failure of the test.
                thread::spawn(move || answer(&shared, stream));
            }
        });
        server
    }

    pub fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.shared.files.lock().unwrap().insert(path.into(), bytes.into());
    }

    pub fn get(&self, path: &str) -> Vec<u8> {
        self.shared.files.lock().unwrap()[path].clone()
    }

    pub fn remove(&self, path: &str) {
        self.shared.files.lock().unwrap().remove(path);
    }

    /// Everything that this server has, for another one.
    pub fn copy_to(&self, other: &Server) {
        *other.shared.files.lock().unwrap() = self.shared.files.lock().unwrap().clone();
    }

    pub fn fault(&self, path: &str, fault: Fault) {
        self.shared.faults.lock().unwrap().insert(path.into(), fault);
    }

    pub fn repair(&self) {
        self.shared.faults.lock().unwrap().clear();
    }

    /// The requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.seen.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

fn answer(shared: &Shared, mut stream: TcpStream) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.trim_start_matches('/').to_owned();
    let mut headers = HashMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let file = shared.files.lock().unwrap().get(&path).cloned();
    let fault = {
        let mut faults = shared.faults.lock().unwrap();
        match faults.get_mut(&path) {
            Some(Fault::Status(_, 0)) => None,
            Some(Fault::Status(_, left)) => {
                *left -= 1;
                faults.get(&path).cloned()
            }
            other => other.cloned(),
        }
    };
    let range = headers.get("range").cloned();
    let mut seen = Seen {
        path: path.clone(),
        status: 200,
        range: range.clone(),
        if_range: headers.contains_key("if-range"),
        sent: 0,
    };
    let mut body = file.clone().unwrap_or_default();
    let etag = format!("\"{}\"", digest(&body));
    let mut extra = String::new();
    if file.is_none() {
        seen.status = 404;
    }
    if headers.get("if-none-match") == Some(&etag) {
        seen.status = 304;
    }
    let current = headers.get("if-range").is_none_or(|tag| *tag == etag);
    let from = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    if let Some(from) = from.filter(|_| current && !matches!(fault, Some(Fault::NoRange))) {
        let from: usize = from;
        let (start, end) = match fault {
            Some(Fault::WrongRange) => (from / 2, body.len()),
            _ => (from.min(body.len()), body.len()),
        };
        seen.status = 206;
        extra = format!("Content-Range: bytes {start}-{}/{end}\r\n", end.saturating_sub(1));
        body.drain(..start);
    }
    match &fault {
        Some(Fault::Status(status, _)) => seen.status = *status,
        Some(Fault::Endless) => seen.status = 200,
        Some(Fault::Unchanged) => seen.status = 304,
        Some(Fault::Redirect(to)) => {
            seen.status = 302;
            extra = format!("Location: {to}\r\n");
        }
        Some(Fault::Silent) => {
            thread::sleep(Duration::from_secs(2));
            return None;
        }
        _ => {}
    }
    if !matches!(seen.status, 200 | 206) {
        body.clear();
    }
    let length = match fault {
        Some(Fault::Endless) => String::new(),
        Some(Fault::Longer) => format!("Content-Length: {}\r\n", body.len() + 1),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let status = seen.status;
    let head =
        format!("HTTP/1.1 {status} X\r\nETag: {etag}\r\n{extra}{length}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let send = |stream: &mut TcpStream, bytes: &[u8]| stream.write_all(bytes).ok();
    seen.sent = match fault {
        Some(Fault::Cut(at)) => at.min(body.len()),
        _ => body.len(),
    };
    shared.seen.lock().unwrap().push(seen.clone());
    match fault {
        Some(Fault::Endless) => loop {
            send(&mut stream, &[7; 8192])?;
        },
        Some(Fault::Slow) => {
            for bytes in body.chunks(4) {
                send(&mut stream, bytes)?;
                thread::sleep(Duration::from_millis(20));
            }
            Some(())
        }
        _ => send(&mut stream, &body[..seen.sent]),
    }
}
