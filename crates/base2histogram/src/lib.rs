//! The histograms that openraft records batch sizes in, in place of the registry's crate of the same name, which fills
//! lookup tables for sixteen widths at the first use: 24 MiB that nothing ever reads.
//!
//! Only what openraft calls is here. `[patch.crates-io]` in the workspace's manifest puts it in its place; when the
//! registry's crate makes its tables one by one, both go.

use std::fmt;
use std::marker::PhantomData;

/// Values below this are counted exactly; above, each power of two is split into as many buckets.
const PARTS: usize = 8;
/// Binary digits of [`PARTS`].
const PART_BITS: u32 = PARTS.trailing_zeros();
/// Buckets of all 64-bit values.
const BUCKETS: usize = PARTS * (64 - PART_BITS as usize + 1);

/// Counts of values by size, each bucket at most an eighth of its values wide. `T` tags histograms that must not be
/// mixed up.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Vec<u64>,
    tag: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// An empty one.
    pub fn new() -> Histogram<T> {
        Histogram { counts: vec![0; BUCKETS], tag: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value so many times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        let count = &mut self.counts[bucket(value)];
        *count = count.saturating_add(times);
    }

    /// Values counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The least value of the bucket below or in which this part (0 to 1) of all values lies; 0 if there are none.
    pub fn percentile(&self, part: f64) -> u64 {
        let wanted = ((self.total() as f64 * part).ceil() as u64).max(1);
        let mut seen = 0u64;
        for (at, count) in self.counts.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= wanted {
                return least(at);
            }
        }
        0
    }

    /// The percentiles that openraft shows.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Histogram::new()
    }
}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.percentile_stats().fmt(f)
    }
}

/// The bucket that counts a value.
fn bucket(value: u64) -> usize {
    if value < PARTS as u64 {
        return value as usize;
    }
    let exponent = 63 - value.leading_zeros() - PART_BITS;
    let part = (value >> exponent) as usize - PARTS;
    PARTS * (exponent as usize + 1) + part
}

/// The least value that a bucket counts.
fn least(bucket: usize) -> u64 {
    if bucket < PARTS {
        return bucket as u64;
    }
    ((PARTS + bucket % PARTS) as u64) << (bucket / PARTS - 1)
}

/// What [`Histogram::percentile_stats`] tells: each a value that so many percent of the samples reach at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// Values counted.
    pub samples: u64,
    /// 0.1 %.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats { samples, p1, p50, p90, p99, p99_9, .. } = self;
        write!(f, "{samples} values, p1 {p1}, p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}")
    }
}

/// Several histograms as lines of text.
#[derive(Debug, Default)]
pub struct AsciiChart {
    rows: Vec<(String, PercentileStats)>,
}

impl AsciiChart {
    /// An empty one.
    pub fn new() -> AsciiChart {
        AsciiChart::default()
    }

    /// With one more row.
    #[must_use]
    pub fn add<T>(mut self, name: impl Into<String>, histogram: Histogram<T>) -> AsciiChart {
        self.rows.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, stats) in &self.rows {
            writeln!(f, "{name}: {stats}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_the_values_from_its_least_to_the_next_ones() {
        for at in 0..BUCKETS {
            assert_eq!(bucket(least(at)), at, "least value of {at}");
            if at > 0 {
                assert_eq!(bucket(least(at) - 1), at - 1, "last value below {at}");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_within_an_eighth_of_the_values() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile(0.5), 0);
        for value in 1..=1000 {
            histogram.record(value);
        }
        let stats = histogram.percentile_stats();
        assert_eq!(stats.samples, 1000);
        for (found, exact) in [(stats.p1, 10), (stats.p50, 500), (stats.p90, 900), (stats.p99_9, 999)] {
            assert!(found <= exact && found * 9 >= exact * 8, "{found} for {exact}");
        }
    }
}
