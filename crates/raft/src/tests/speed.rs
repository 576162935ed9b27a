//! Measurements, run by hand: `cargo test --release -p dqlited-raft speed -- --ignored --nocapture --test-threads 1`.

use std::time::{Duration, Instant};

use super::*;

fn process_cpu() -> Duration {
    // utime and stime of the whole process, in ticks of 10 ms.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn measure_puts(clients: usize, commit_interval: Duration) {
    let folder = tempfile::tempdir_in(".").unwrap();
    let node = start(NodeOptions { commit_interval, ..options(folder.path()) }).await;
    let value = "v".repeat(1024);
    let (begun, cpu_before) = (Instant::now(), process_cpu());
    let ends = begun + Duration::from_secs(5);
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let (node, value) = (node.clone(), value.clone());
            tokio::spawn(async move {
                let mut took = Vec::new();
                let mut number = client as u64;
                while Instant::now() < ends {
                    number = number.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let key = format!("key/{:06}", (number >> 33) % 100_000);
                    let started = Instant::now();
                    put(&node, &key, &value).await;
                    took.push(started.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    took.sort_unstable();
    let (wall, cpu) = (begun.elapsed(), process_cpu() - cpu_before);
    println!(
        "{clients} proposers, commit every {commit_interval:?}: {:.0} puts/s, p50 {:?}, p99 {:?}, {:.1} us CPU a put, {:?}",
        took.len() as f64 / wall.as_secs_f64(),
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        cpu.as_secs_f64() * 1e6 / took.len() as f64,
        node.counters(),
    );
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, run by hand on a quiet machine"]
async fn speed_of_puts() {
    for interval in [0, 100] {
        measure_puts(100, Duration::from_millis(interval)).await;
        measure_puts(1, Duration::from_millis(interval)).await;
    }
}
