//! Clients of the Citadel server: each registers, connects, sends messages that are echoed, re-keys, sends a file,
//! leaves, and starts over under a new name until the time is up. The last line is a JSON summary.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use citadel_sdk::prefabs::client::single_connection::SingleClientServerConnectionKernel;
use citadel_sdk::prelude::*;
use clap::Parser;
use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

type Connection = CitadelClientServerConnection<StackedRatchet>;

/// Nothing that the driver waits for may take longer; a server stopped by a debugger must not hang it.
const PATIENCE: Duration = Duration::from_secs(20);

/// For all clients to register and connect.
const WARM_UP: Duration = Duration::from_secs(60);

#[derive(Parser, Clone)]
#[command(about = "Load for the Citadel server")]
struct Args {
    /// Where the server is
    #[arg(long)]
    server: SocketAddr,
    #[arg(long, default_value_t = 4)]
    clients: u64,
    /// How long the load lasts once all clients are connected; no step begins later
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Messages between two re-keys, each echoed before the next is sent
    #[arg(long, default_value_t = 10)]
    messages: u64,
    /// Bytes of a message
    #[arg(long, default_value_t = 4096)]
    message_bytes: usize,
    /// Pause after each message, in milliseconds
    #[arg(long, default_value_t = 5)]
    pause: u64,
    /// Rounds of messages and a re-key until a client leaves and registers anew
    #[arg(long, default_value_t = 20)]
    rounds: u64,
    /// Bytes of the file that each session sends; 0 for none
    #[arg(long, default_value_t = 262_144)]
    file_bytes: usize,
    /// Print `requests=N`, the messages and re-keys so far, twenty times a second once all clients are connected
    #[arg(long)]
    progress: bool,
}

impl Args {
    /// What belongs to this process on disk: the file that is sent, and each client's own folder.
    fn folder() -> PathBuf {
        std::env::temp_dir().join(format!("citadel-load-{}", std::process::id()))
    }

    fn file() -> PathBuf {
        Self::folder().join("file.bin")
    }
}

#[derive(Default)]
struct Counts {
    registrations: AtomicU64,
    connects: AtomicU64,
    messages: AtomicU64,
    rekeys: AtomicU64,
    rekeys_already_in_progress: AtomicU64,
    file_transfers: AtomicU64,
    errors: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// What a client asks of the server when it is connected.
    fn requests(&self) -> u64 {
        self.messages.load(Ordering::Relaxed) + self.rekeys.load(Ordering::Relaxed)
    }

    fn summary(&self, args: &Args, elapsed: Duration) -> serde_json::Value {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Self {
            registrations,
            connects,
            messages,
            rekeys,
            rekeys_already_in_progress,
            file_transfers,
            errors,
        } = self;
        json!({
            "clients": args.clients, "requests": self.requests(), "seconds": elapsed.as_secs_f64(),
            "registrations": get(registrations), "connects": get(connects), "messages": get(messages),
            "rekeys": get(rekeys), "rekeys_already_in_progress": get(rekeys_already_in_progress),
            "file_transfers": get(file_transfers), "errors": get(errors),
        })
    }

    fn error(&self, step: &str, error: impl std::fmt::Display) {
        Self::add(&self.errors);
        eprintln!("{step}: {error}");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // SAFETY: the first statement of main; no thread has been started.
    unsafe { citadel_workload::forbid_web_requests() };
    let args = Args::parse();
    citadel_workload::log_if_wanted();
    std::fs::create_dir(Args::folder())?;
    std::fs::write(Args::file(), vec![0xa5; args.file_bytes])?;
    let counts = Arc::new(Counts::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let elapsed = runtime.block_on(load(&args, &counts));
    std::fs::remove_dir_all(Args::folder())?;
    println!("{}", counts.summary(&args, elapsed?));
    // Tasks of nodes that did not shut down are of no interest any more.
    std::process::exit(0);
}

/// Starts the clients, lets them begin together once all are connected, and waits for them to end.
async fn load(args: &Args, counts: &Arc<Counts>) -> Result<Duration, String> {
    let (begin, began) = watch::channel(None);
    let clients: Vec<_> = (0..args.clients)
        .map(|number| {
            tokio::spawn(client(
                args.clone(),
                number,
                began.clone(),
                Arc::clone(counts),
            ))
        })
        .collect();
    let started = Instant::now();
    while counts.connects.load(Ordering::Relaxed) < args.clients {
        if started.elapsed() > WARM_UP {
            return Err(format!(
                "not all clients were connected after {} s",
                WARM_UP.as_secs()
            ));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let started = Instant::now();
    begin.send_replace(Some(started + Duration::from_secs(args.seconds)));
    println!(
        "loading pid={} clients={}",
        std::process::id(),
        args.clients
    );
    if args.progress {
        tokio::spawn(print_progress(Arc::clone(counts)));
    }
    for client in clients {
        if let Err(error) = client.await {
            counts.error("client", error);
        }
    }
    // The last steps may have ended a little later; nodes may have taken long to shut down.
    Ok(started.elapsed().min(Duration::from_secs(args.seconds)))
}

async fn print_progress(counts: Arc<Counts>) {
    loop {
        println!("requests={}", counts.requests());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// When the load ends; nothing before it has begun.
type Deadline = watch::Receiver<Option<Instant>>;

/// One client: session after session, each as somebody new.
async fn client(args: Args, number: u64, deadline: Deadline, counts: Arc<Counts>) {
    let mut life = 0;
    while deadline
        .borrow()
        .is_none_or(|deadline| Instant::now() < deadline)
    {
        let name = format!("load-{}-{number}-{life}", std::process::id());
        let session = session(
            args.clone(),
            name,
            security(number + life),
            deadline.clone(),
            Arc::clone(&counts),
        );
        let longest = WARM_UP + Duration::from_secs(args.seconds) + PATIENCE;
        match timeout(longest, session).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                counts.error("session", error);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(_) => counts.error("session", "did not end"),
        }
        life += 1;
    }
}

/// Clients differ in their algorithms, so that a server sees all of them.
fn security(number: u64) -> SessionSecuritySettings {
    let settings =
        SessionSecuritySettingsBuilder::default().with_secrecy_mode(SecrecyMode::Perfect);
    let settings = match number % 4 {
        0 => settings.with_crypto_params(EncryptionAlgorithm::AES_GCM_256 + KemAlgorithm::MlKem),
        1 => settings
            .with_crypto_params(EncryptionAlgorithm::ChaCha20Poly_1305 + KemAlgorithm::MlKem),
        2 => settings.with_crypto_params(EncryptionAlgorithm::Ascon80pq + KemAlgorithm::MlKem),
        _ => settings.with_crypto_params(
            EncryptionAlgorithm::MlKemHybrid + KemAlgorithm::MlKem + SigAlgorithm::MlDsa65,
        ),
    };
    // More levels, more keys in each ratchet.
    let level = [
        SecurityLevel::Standard,
        SecurityLevel::Reinforced,
        SecurityLevel::High,
    ][(number / 4 % 3) as usize];
    settings
        .with_security_level(level)
        .build()
        .expect("every field has a value or a default")
}

async fn session(
    args: Args,
    name: String,
    security: SessionSecuritySettings,
    mut deadline: Deadline,
    counts: Arc<Counts>,
) -> Result<(), String> {
    let folder = Args::folder().join(&name);
    let settings = DefaultServerConnectionSettingsBuilder::credentialed_registration(
        args.server,
        name.clone(),
        name,
        "a password of some length",
    )
    .disable_udp()
    .with_session_security_settings(security)
    .build()
    .map_err(|error| format!("{error:?}"))?;
    let kernel = SingleClientServerConnectionKernel::new(
        settings,
        move |connection: Connection| async move {
            // The prefab registers a name that it does not know, and calls this once it is connected.
            Counts::add(&counts.registrations);
            Counts::add(&counts.connects);
            let remote = connection.remote.clone();
            let begun = deadline
                .wait_for(Option::is_some)
                .await
                .map(|deadline| *deadline);
            if let Ok(Some(deadline)) = begun
                && let Err(error) = talk(&args, connection, deadline, &counts).await
            {
                counts.error("session", error);
            }
            remote.shutdown_kernel().await
        },
    );
    let mut node = citadel_workload::offline_node(&folder);
    let node = node.build(kernel).map_err(|error| error.to_string())?;
    node.await.map(drop).map_err(|error| format!("{error:?}"))
}

async fn talk(
    args: &Args,
    mut connection: Connection,
    deadline: Instant,
    counts: &Counts,
) -> Result<(), String> {
    let channel = connection
        .take_channel()
        .ok_or("the connection has no channel")?;
    let (mut sender, mut receiver) = channel.split();
    for round in 0..args.rounds {
        for _ in 0..args.messages {
            if Instant::now() >= deadline {
                return Ok(());
            }
            let message = vec![0x5a; args.message_bytes];
            timed("send", sender.send(message))
                .await?
                .map_err(|error| format!("send: {error:?}"))?;
            timed("echo", receiver.next())
                .await?
                .ok_or("the channel closed before the echo")?;
            Counts::add(&counts.messages);
            tokio::time::sleep(Duration::from_millis(args.pause)).await;
        }
        rekey(&connection, counts).await?;
        if round == 0 && args.file_bytes > 0 {
            timed("file transfer", connection.send_file(Args::file()))
                .await?
                .map_err(|error| format!("file transfer: {error:?}"))?;
            Counts::add(&counts.file_transfers);
        }
    }
    Ok(())
}

/// Every message of SecrecyMode::Perfect re-keys as well, in both directions, so that an explicit re-key may
/// have to try again.
async fn rekey(connection: &Connection, counts: &Counts) -> Result<(), String> {
    for _ in 0..5 {
        let version = timed("re-key", connection.rekey())
            .await?
            .map_err(|error| format!("re-key: {error:?}"))?;
        if version.is_some() {
            Counts::add(&counts.rekeys);
            break;
        }
        Counts::add(&counts.rekeys_already_in_progress);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn timed<T>(step: &str, future: impl Future<Output = T>) -> Result<T, String> {
    timeout(PATIENCE, future)
        .await
        .map_err(|_| format!("{step}: no answer for {} s", PATIENCE.as_secs()))
}
