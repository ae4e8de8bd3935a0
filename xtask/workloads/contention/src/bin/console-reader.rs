//! What tokio-console would show. What enters: the socket of a console-subscriber. What leaves, at SIGTERM or SIGINT: a JSON
//! line for each task, as README.md describes them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use console_api::Id;
use console_api::instrument::instrument_client::InstrumentClient;
use console_api::instrument::{InstrumentRequest, TaskDetailsRequest, Update};
use console_api::tasks::{DurationHistogram, Stats, Task, TaskDetails, task_details};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Parser)]
#[command(about = "Writes down what console-subscriber knows of each task")]
struct Args {
    /// Where console-subscriber answers
    socket: PathBuf,
    /// Where to write it, as JSON lines
    file: PathBuf,
    /// Fails if it was not ended after so many seconds
    #[arg(long, default_value_t = 120)]
    seconds: u64,
}

/// For an answer. console-subscriber sends an update each second, if nobody tells it to be faster.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than the busiest second's tasks, timers and locks take; gRPC's own limit is 4 MB.
const LARGEST_UPDATE: usize = 64 << 20;
/// More than any workload has: one that never ends to spawn must not fill the memory.
const MOST_TASKS: usize = 100_000;

fn main() -> Result<()> {
    let args = Args::parse();
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let reading = read(&args.socket, &ended);
    let lines = runtime.block_on(async {
        timeout(Duration::from_secs(args.seconds), reading)
            .await
            .map_err(|_| "nobody ended this in time")?
    })?;
    let mut file = BufWriter::new(File::create(&args.file)?);
    for line in lines {
        writeln!(file, "{line}")?;
    }
    file.flush()?;
    Ok(())
}

/// Follows the updates until it is ended, then asks for each task's histogram.
async fn read(socket: &Path, ended: &AtomicBool) -> Result<Vec<Value>> {
    let address = format!("unix:{}", socket.display());
    // Whoever started both need not know when it listens.
    let connected = timeout(PATIENCE, async {
        loop {
            match InstrumentClient::connect(address.clone()).await {
                Ok(console) => return console,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    });
    let mut console = connected
        .await
        .map_err(|_| format!("nobody answers at {}", socket.display()))?
        .max_decoding_message_size(LARGEST_UPDATE);
    let request = InstrumentRequest::default();
    let mut updates = console.watch_updates(request).await?.into_inner();
    let mut seen = Seen::default();
    // When the end comes an update can be on its way, made before; the one behind it has all.
    let mut updates_to_come = 2;
    while updates_to_come > 0 {
        let was_ended = ended.load(Ordering::Relaxed);
        let update = timeout(PATIENCE, updates.message()).await??;
        seen.add(update.ok_or("console-subscriber is gone")?)?;
        if seen.updates == 1 {
            println!("reading pid={}", std::process::id());
        }
        updates_to_come -= i32::from(was_ended);
    }
    let mut lines = Vec::new();
    for (&id, task) in &seen.tasks {
        let stats = seen.stats.get(&id).ok_or("a task without numbers")?;
        let request = TaskDetailsRequest {
            id: Some(Id { id }),
        };
        let mut details = console.watch_task_details(request).await?.into_inner();
        let details = timeout(PATIENCE, details.message()).await??;
        let details = details.ok_or("a task without details")?;
        lines.push(line(task, stats, details)?);
    }
    lines.push(json!({"kind": "end", "tasks": lines.len(), "dropped": seen.dropped}));
    Ok(lines)
}

/// What the updates have said.
#[derive(Default)]
struct Seen {
    updates: u64,
    tasks: BTreeMap<u64, Task>,
    /// By the same numbers, the last that were told.
    stats: BTreeMap<u64, Stats>,
    /// Tasks' events that console-subscriber had no room for.
    dropped: u64,
}

impl Seen {
    fn add(&mut self, update: Update) -> Result<()> {
        let update = update.task_update.ok_or("an update without tasks")?;
        self.updates += 1;
        self.dropped += update.dropped_events;
        self.stats.extend(update.stats_update);
        for task in update.new_tasks {
            let id = task.id.ok_or("a task without a number")?.id;
            self.tasks.insert(id, task);
        }
        if self.tasks.len() > MOST_TASKS {
            return Err("there are more tasks than can be".into());
        }
        Ok(())
    }
}

fn line(task: &Task, stats: &Stats, details: TaskDetails) -> Result<Value> {
    // Their text is `name=value`.
    let fields: Vec<String> = task.fields.iter().map(ToString::to_string).collect();
    let field = |name: &str| {
        let mut named = fields.iter().filter_map(|field| field.split_once('='));
        named.find_map(|(key, value)| (key == name).then_some(value))
    };
    let polls = stats.poll_stats.as_ref().ok_or("a task without polls")?;
    let busy = polls.busy_time.ok_or("a task without a busy time")?;
    let Some(task_details::PollTimesHistogram::Histogram(durations)) = details.poll_times_histogram
    else {
        return Err("a task without a histogram, or with one of another version".into());
    };
    Ok(json!({
        "kind": "task",
        "task_id": field("task.id").and_then(|id| id.parse::<u64>().ok()),
        "name": field("task.name"),
        "runs": field("kind"),
        "location": task.location.as_ref().map(ToString::to_string),
        "has_ended": stats.dropped_at.is_some(),
        "polls": polls.polls,
        "busy_ns": Duration::try_from(busy)?.as_nanos() as u64,
        "longer_than_histogram": durations.high_outliers,
        "histogram": buckets(&durations)?,
    }))
}

/// The shortest duration of each bucket, the longest, and how many lie there, in nanoseconds.
fn buckets(durations: &DurationHistogram) -> Result<Vec<[u64; 3]>> {
    let mut bytes = durations.raw_histogram.as_slice();
    let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut bytes)?;
    let buckets = histogram.iter_recorded().map(|bucket| {
        let ns = bucket.value_iterated_to();
        let (from_ns, to_ns) = (
            histogram.lowest_equivalent(ns),
            histogram.highest_equivalent(ns),
        );
        [from_ns, to_ns, bucket.count_since_last_iteration()]
    });
    Ok(buckets.collect())
}
