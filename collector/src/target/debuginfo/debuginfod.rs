//! Debuginfod: a build-id goes in; the debug file comes out of the cache that all debuginfod clients
//! share, or from a server into that cache. Off unless `DEBUGINFOD_URLS` is set, as for every client.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::root::open_ours;

/// Servers and limits.
#[derive(Clone, Debug)]
pub struct Debuginfod {
    urls: Vec<String>,
    cache: PathBuf,
    /// A larger file is not taken.
    most_bytes: u64,
    /// One server has so long for one file.
    patience: Duration,
    /// A server that could not be reached is not tried for the next binary.
    gave_up: Cell<bool>,
}

/// The debug file of a 1 GB binary has half of this.
const MOST_BYTES: u64 = 1 << 30;
/// An incident is no time to wait: 50 MB in this time are less than a megabyte each second.
const PATIENCE: Duration = Duration::from_secs(60);
/// A server that is there answers sooner.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

impl Debuginfod {
    /// As the environment says; None without a server.
    pub fn from_env() -> Option<Debuginfod> {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Debuginfod::from_variables(text)
    }

    /// As these variables say: `DEBUGINFOD_URLS` (servers, separated by spaces), `DEBUGINFOD_CACHE_PATH`,
    /// `DEBUGINFOD_MAXSIZE` (bytes), `DEBUGINFOD_MAXTIME` (seconds).
    pub(super) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Option<Debuginfod> {
        let urls: Vec<String> = variable("DEBUGINFOD_URLS")?
            .split_ascii_whitespace()
            // Besides servers there can be directives (`ima:enforcing`) and local folders.
            .filter(|word| word.starts_with("http://") || word.starts_with("https://"))
            .map(|url| url.trim_end_matches('/').to_owned())
            .collect();
        let in_folder = |name: &str, beneath: &str| Some(Path::new(&variable(name)?).join(beneath));
        let cache = variable("DEBUGINFOD_CACHE_PATH")
            .map(PathBuf::from)
            .or_else(|| in_folder("XDG_CACHE_HOME", "debuginfod_client"))
            .or_else(|| in_folder("HOME", ".cache/debuginfod_client"))?;
        let number = |name: &str| variable(name)?.parse::<u64>().ok().filter(|&n| n > 0);
        (!urls.is_empty()).then(|| Debuginfod {
            urls,
            cache,
            most_bytes: number("DEBUGINFOD_MAXSIZE").unwrap_or(MOST_BYTES),
            patience: number("DEBUGINFOD_MAXTIME").map_or(PATIENCE, Duration::from_secs),
            gave_up: Cell::new(false),
        })
    }

    /// The debug file of this build-id, and where in the cache it is. None if no server has it; an error is
    /// one sentence.
    pub fn debug_file(&self, build_id: &str) -> Result<Option<(PathBuf, File)>, String> {
        let folder = self.cache.join(build_id);
        let cached = folder.join("debuginfo");
        // Other clients leave an empty file for what no server had.
        let in_cache = || {
            let file = open_ours(&cached).ok()?;
            (file.metadata().ok()?.len() > 0).then(|| (cached.clone(), file))
        };
        if let Some(found) = in_cache() {
            return Ok(Some(found));
        }
        if self.gave_up.get() {
            return Ok(None);
        }
        let mut problem = None;
        for url in &self.urls {
            let url = format!("{url}/buildid/{build_id}/debuginfo");
            match self.download(&url, &folder) {
                Ok(true) => return Ok(in_cache()),
                Ok(false) => {}
                Err(why) => problem = Some(format!("{url} could not be fetched: {why}")),
            }
        }
        match problem {
            Some(problem) => {
                self.gave_up.set(true);
                Err(problem)
            }
            None => Ok(None),
        }
    }

    /// Fetches a file into the cache; false if the server does not have it.
    fn download(&self, url: &str, folder: &Path) -> Result<bool, String> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT_PATIENCE.min(self.patience)))
            .timeout_global(Some(self.patience))
            .user_agent(concat!("holdup/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let mut response = match agent.get(url).call() {
            Ok(response) => response,
            Err(ureq::Error::StatusCode(404)) => return Ok(false),
            Err(error) => return Err(error.to_string()),
        };
        let body = response.body_mut().as_reader().take(self.most_bytes + 1);
        self.store(body, folder).map_err(|error| error.to_string())
    }

    /// Whole or not at all: another client may look into the cache at any time.
    fn store(&self, mut body: impl io::Read, folder: &Path) -> io::Result<bool> {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        let copied = io::copy(&mut body, file.as_file_mut())?;
        if copied > self.most_bytes {
            let most = self.most_bytes;
            return Err(io::Error::other(format!(
                "it has more than {most} bytes (DEBUGINFOD_MAXSIZE allows more)"
            )));
        }
        file.persist(folder.join("debuginfo"))?;
        Ok(copied > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server that answers `answers.len()` requests, and what was asked of it.
    fn server(answers: Vec<(&'static str, Vec<u8>)>) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let asked = thread::spawn(move || {
            let mut asked = Vec::new();
            for (status, body) in answers {
                let (stream, _) = listener.accept().expect("a client comes");
                let mut lines = BufReader::new(&stream).lines();
                asked.push(lines.next().expect("a request").expect("it is text"));
                lines
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .for_each(drop);
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let mut stream = &stream;
                stream.write_all(head.as_bytes()).expect("the client reads");
                // One that has enough hangs up.
                let _ = stream.write_all(&body);
            }
            asked
        });
        (url, asked)
    }

    fn client(urls: &str, cache: &Path, most_bytes: &str) -> Debuginfod {
        let cache = cache.to_str().expect("it is UTF-8").to_owned();
        Debuginfod::from_variables(|name| match name {
            "DEBUGINFOD_URLS" => Some(urls.to_owned()),
            "DEBUGINFOD_CACHE_PATH" => Some(cache.clone()),
            "DEBUGINFOD_MAXSIZE" => Some(most_bytes.to_owned()),
            _ => None,
        })
        .expect("there is a server")
    }

    /// A file comes from the second server, and from the cache the next time.
    #[test]
    fn fetched_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, asked_first) = server(vec![("404 Not Found", Vec::new())]);
        let (second, asked_second) = server(vec![("200 OK", b"a debug file".to_vec())]);
        let debuginfod = client(
            &format!("{first}/ ima:enforcing {second}"),
            folder.path(),
            "1000",
        );
        for _ in 0..2 {
            let found = debuginfod.debug_file("0a1b2c").expect("nothing fails");
            let (path, mut file) = found.expect("the second server has it");
            assert_eq!(path, folder.path().join("0a1b2c/debuginfo"));
            let mut text = String::new();
            file.read_to_string(&mut text).expect("it is readable");
            assert_eq!(text, "a debug file");
        }
        let wanted = ["GET /buildid/0a1b2c/debuginfo HTTP/1.1"];
        assert_eq!(asked_first.join().expect("it ends"), wanted);
        assert_eq!(asked_second.join().expect("it ends"), wanted);
    }

    /// What is too large is not kept, and nobody asks again after a failure.
    #[test]
    fn bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let (url, asked) = server(vec![("200 OK", vec![7; 5000])]);
        let debuginfod = client(&url, folder.path(), "1000");
        let error = debuginfod
            .debug_file("0a1b2c")
            .expect_err("it is too large");
        assert!(
            error.contains(&url) && error.contains("more than 1000 bytes"),
            "{error}"
        );
        asked.join().expect("it ends");
        assert!(matches!(debuginfod.debug_file("0d0e0f"), Ok(None)));
        let kept = fs::read_dir(folder.path().join("0a1b2c")).expect("the folder was made");
        assert_eq!(kept.count(), 0);
    }

    /// Off unless set; the cache is where other clients have it.
    #[test]
    fn variables() {
        let with = |set: &[(&str, &str)]| {
            let set = set.to_vec();
            Debuginfod::from_variables(move |name| {
                let (_, value) = set.iter().find(|(known, _)| *known == name)?;
                Some((*value).to_owned())
            })
        };
        let urls = ("DEBUGINFOD_URLS", "https://debuginfod.example/");
        assert!(with(&[("HOME", "/home/u")]).is_none());
        assert!(with(&[("DEBUGINFOD_URLS", "ima:enforcing"), ("HOME", "/h")]).is_none());
        let at_home = with(&[urls, ("HOME", "/home/u")]).expect("a server is set");
        assert_eq!(at_home.urls, ["https://debuginfod.example"]);
        assert_eq!(at_home.cache, Path::new("/home/u/.cache/debuginfod_client"));
        let xdg = with(&[urls, ("HOME", "/home/u"), ("XDG_CACHE_HOME", "/c")]);
        assert_eq!(
            xdg.expect("a server is set").cache,
            Path::new("/c/debuginfod_client")
        );
    }
}
