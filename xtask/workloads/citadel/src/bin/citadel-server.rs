//! A Citadel server that echoes what its clients send and accepts their files, until SIGTERM, SIGINT or `--seconds`.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use citadel_sdk::prefabs::server::client_connect_listener::ClientConnectListenerKernel;
use citadel_sdk::prelude::*;
use clap::Parser;
use futures::StreamExt as _;
use tokio::signal::unix::{SignalKind, signal};

type Connection = CitadelClientServerConnection<StackedRatchet>;

/// The cost OWASP recommends. Citadel's own (64 MiB, ten passes, eight lanes) makes a registration take
/// seconds on a small machine: it runs on the blocking pool, and there would be little else to see.
const PASSWORD_HASH: ArgonDefaultServerSettings = ArgonDefaultServerSettings {
    lanes: 1,
    hash_length: 32,
    mem_cost: 19 * 1024,
    time_cost: 2,
    secret: Vec::new(),
};

#[derive(Parser)]
#[command(about = "A Citadel server on the loopback interface")]
struct Args {
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Ends after so many seconds at the latest
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Worker threads of the runtime; as many as CPUs when not given
    #[arg(long)]
    workers: Option<usize>,
}

/// The SDK's listener, which leaves out file transfers, with file transfers.
struct Server<L> {
    listener: L,
}

#[async_trait]
impl<L: NetKernel<StackedRatchet>> NetKernel<StackedRatchet> for Server<L> {
    fn load_remote(&mut self, remote: NodeRemote<StackedRatchet>) -> Result<(), NetworkError> {
        self.listener.load_remote(remote)
    }

    async fn on_start(&self) -> Result<(), NetworkError> {
        self.listener.on_start().await
    }

    async fn on_node_event_received(
        &self,
        event: NodeResult<StackedRatchet>,
    ) -> Result<(), NetworkError> {
        match event {
            NodeResult::ObjectTransferHandle(transfer) => {
                tokio::spawn(receive_file(transfer.handle));
                Ok(())
            }
            other => self.listener.on_node_event_received(other).await,
        }
    }

    async fn on_stop(&mut self) -> Result<(), NetworkError> {
        self.listener.on_stop().await
    }
}

async fn receive_file(mut handle: ObjectTransferHandler) {
    match handle.exhaust_stream().await {
        // A server that runs for long must not fill the disk.
        Ok(Some(path)) => drop(tokio::fs::remove_file(path).await),
        Ok(None) => {}
        Err(error) => eprintln!("a file transfer failed: {error:?}"),
    }
}

async fn echo(mut connection: Connection) {
    let Some(channel) = connection.take_channel() else {
        return;
    };
    let (mut sender, mut receiver) = channel.split();
    while let Some(message) = receiver.next().await {
        if sender.send(message).await.is_err() {
            break;
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // SAFETY: the first statement of main; no thread has been started.
    unsafe { citadel_workload::forbid_web_requests() };
    let args = Args::parse();
    citadel_workload::log_if_wanted();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = args.workers {
        runtime.worker_threads(workers);
    }
    let files = std::env::temp_dir().join(format!("citadel-server-{}", std::process::id()));
    std::fs::create_dir(&files)?;
    let served = runtime.enable_all().build()?.block_on(serve(&args, &files));
    std::fs::remove_dir_all(&files)?;
    served
}

async fn serve(args: &Args, files: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let address = bind_address(args.port)?;
    // Each connection is a task of its own: the kernel would poll all of them in one.
    let listener = ClientConnectListenerKernel::<_, _, StackedRatchet>::new(
        |connection: Connection| async move {
            tokio::spawn(echo(connection));
            Ok(())
        },
    );
    let mut node = citadel_workload::offline_node(files);
    node.with_node_type(NodeType::Server(address))
        .with_server_argon_settings(PASSWORD_HASH);
    let mut node = tokio::spawn(node.build(Server { listener })?);

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // The node has no way to say that it listens.
    tokio::select! {
        ended = &mut node => return Err(format!("the server did not start: {:?}", ended.map(|node| node.map(drop))).into()),
        () = listening(address) => println!("ready pid={} address={address}", std::process::id()),
    }
    tokio::select! {
        ended = &mut node => Err(format!("the server ended by itself: {:?}", ended.map(|node| node.map(drop))).into()),
        () = tokio::time::sleep(Duration::from_secs(args.seconds)) => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// The node wants to bind by itself, so a free port is one that was free a moment ago.
fn bind_address(port: u16) -> std::io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", port))?.local_addr()
}

async fn listening(address: SocketAddr) {
    while tokio::net::TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
