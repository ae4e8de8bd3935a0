//! `echo serve` sends back every message of 64 bytes; `echo ask` asks it as fast as it answers, for a bounded
//! time, and prints how many requests were answered as a line of JSON.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// Bytes of a request, and of its answer.
const MESSAGE: usize = 64;

#[derive(Parser)]
#[command(about = "A TCP echo server on the loopback interface, and load for it")]
struct Cli {
    /// Worker threads of the runtime; as many as CPUs when not given
    #[arg(long, global = true)]
    workers: Option<usize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves until SIGTERM, SIGINT or --seconds
    Serve(Serve),
    /// Asks the server, and prints how often it was answered
    Ask(Ask),
}

#[derive(Args)]
struct Serve {
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Ends after so many seconds at the latest
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

#[derive(Args)]
struct Ask {
    /// Where the server is
    #[arg(long)]
    server: SocketAddr,
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// How long; no request is sent later
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Requests that are sent together on one connection, before their answers are read
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// Print `requests=N`, the sum so far, twenty times a second
    #[arg(long)]
    progress: bool,
}

fn main() -> std::io::Result<()> {
    let cli = Cli::parse();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = cli.workers {
        runtime.worker_threads(workers);
    }
    let runtime = runtime.enable_all().build()?;
    match cli.command {
        Command::Serve(options) => runtime.block_on(serve(&options)),
        Command::Ask(options) => runtime.block_on(ask(&options)),
    }
}

async fn serve(options: &Serve) -> std::io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
    println!(
        "ready pid={} address={}",
        std::process::id(),
        listener.local_addr()?
    );
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A task, so that accepting is a poll like any other.
    let accepting = tokio::spawn(accept(listener));
    tokio::select! {
        ended = accepting => ended?,
        () = tokio::time::sleep(Duration::from_secs(options.seconds)) => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

async fn accept(listener: TcpListener) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(echo(stream));
    }
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    loop {
        stream.read_exact(&mut message).await?;
        stream.write_all(&message).await?;
    }
}

async fn ask(options: &Ask) -> std::io::Result<()> {
    let requests = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let deadline = started + Duration::from_secs_f64(options.seconds);
    let connections: Vec<_> = (0..options.connections)
        .map(|_| {
            let requests = Arc::clone(&requests);
            tokio::spawn(ask_on_one_connection(
                options.server,
                deadline,
                options.pipeline,
                requests,
            ))
        })
        .collect();
    if options.progress {
        tokio::spawn(print_progress(Arc::clone(&requests)));
    }
    for connection in connections {
        connection.await??;
    }
    println!(
        "{}",
        json!({
            "requests": requests.load(Ordering::Relaxed),
            "connections": options.connections,
            "seconds": started.elapsed().as_secs_f64(),
        })
    );
    Ok(())
}

async fn print_progress(requests: Arc<AtomicU64>) {
    loop {
        println!("requests={}", requests.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Counts the requests that were answered.
async fn ask_on_one_connection(
    server: SocketAddr,
    deadline: Instant,
    pipeline: usize,
    requests: Arc<AtomicU64>,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let question = vec![0x5a; MESSAGE * pipeline];
    let mut answer = vec![0; MESSAGE * pipeline];
    while Instant::now() < deadline {
        stream.write_all(&question).await?;
        stream.read_exact(&mut answer).await?;
        if answer != question {
            return Err(std::io::Error::other("the answer is not the question"));
        }
        requests.fetch_add(pipeline as u64, Ordering::Relaxed);
    }
    Ok(())
}
