//! Which watchers a key concerns: single keys in a hash map, ranges in a tree that answers in logarithmic time.

use std::cmp::Ordering;
use std::collections::HashMap;

use bytes::Bytes;

/// The keys that a watch covers, by etcd's rules for `key` and `range_end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInterval {
    /// First key.
    pub start: Bytes,
    /// Where it ends.
    pub end: IntervalEnd,
}

/// Where an interval ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntervalEnd {
    /// It is the one key.
    Single,
    /// Before this key.
    Before(Bytes),
    /// Never: all keys from the first on.
    Open,
}

impl KeyInterval {
    /// From a request's `key` and `range_end`: an empty key means `\0`, the end `\0` means "from key on".
    pub fn from_request(key: Bytes, range_end: Bytes) -> Self {
        let start = if key.is_empty() { Bytes::from_static(&[0]) } else { key };
        let end = match &range_end[..] {
            [] => IntervalEnd::Single,
            [0] => IntervalEnd::Open,
            _ => IntervalEnd::Before(range_end),
        };
        KeyInterval { start, end }
    }

    /// No key can be in it.
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, IntervalEnd::Before(end) if *end <= self.start)
    }

    /// The key is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            IntervalEnd::Single => self.start == key,
            IntervalEnd::Before(end) => *self.start <= *key && *key < **end,
            IntervalEnd::Open => *self.start <= *key,
        }
    }

    /// The end as the store's queries take it.
    pub fn range_end(&self) -> Bytes {
        match &self.end {
            IntervalEnd::Single => Bytes::new(),
            IntervalEnd::Before(end) => end.clone(),
            IntervalEnd::Open => Bytes::from_static(&[0]),
        }
    }
}

/// Numbers of watchers by the keys that they cover.
#[derive(Debug, Default)]
pub struct IntervalIndex {
    singles: HashMap<Bytes, Vec<u32>>,
    ranges: RangeTree,
    len: usize,
}

impl IntervalIndex {
    /// How many entries.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds a watcher. The pair must not be there yet.
    pub fn insert(&mut self, interval: &KeyInterval, id: u32) {
        self.len += 1;
        match &interval.end {
            IntervalEnd::Single => self.singles.entry(interval.start.clone()).or_default().push(id),
            IntervalEnd::Before(end) => self.ranges.insert(&interval.start, &RangeEnd(Some(end.clone())), id),
            IntervalEnd::Open => self.ranges.insert(&interval.start, &RangeEnd(None), id),
        }
    }

    /// Takes a watcher out; no-op if it is not there.
    pub fn remove(&mut self, interval: &KeyInterval, id: u32) {
        let removed = match &interval.end {
            IntervalEnd::Single => match self.singles.get_mut(&interval.start) {
                None => false,
                Some(ids) => {
                    let removed = remove_id(ids, id);
                    if ids.is_empty() {
                        self.singles.remove(&interval.start);
                    }
                    removed
                }
            },
            IntervalEnd::Before(end) => self.ranges.remove(&interval.start, &RangeEnd(Some(end.clone())), id),
            IntervalEnd::Open => self.ranges.remove(&interval.start, &RangeEnd(None), id),
        };
        self.len -= usize::from(removed);
    }

    /// Calls `found` for each watcher that covers the key.
    pub fn for_each(&self, key: &[u8], mut found: impl FnMut(u32)) {
        if let Some(ids) = self.singles.get(key) {
            ids.iter().for_each(|id| found(*id));
        }
        self.ranges.visit(self.ranges.root, key, &mut |ids| {
            ids.iter().for_each(|id| found(*id));
            true
        });
    }

    /// Some watcher covers the key.
    pub fn covers(&self, key: &[u8]) -> bool {
        self.len > 0
            && (self.singles.contains_key(key) || !self.ranges.visit(self.ranges.root, key, &mut |_| false))
    }
}

fn remove_id(ids: &mut Vec<u32>, id: u32) -> bool {
    match ids.iter().position(|other| *other == id) {
        None => false,
        Some(at) => {
            ids.swap_remove(at);
            true
        }
    }
}

/// End of a range; `None` is after every key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RangeEnd(Option<Bytes>);

impl RangeEnd {
    fn is_after(&self, key: &[u8]) -> bool {
        self.0.as_deref().is_none_or(|end| key < end)
    }
}

impl PartialOrd for RangeEnd {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RangeEnd {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => a.cmp(b),
        }
    }
}

/// A treap of distinct ranges ordered by (start, end); each node knows the largest end below it, so that a key visits
/// only subtrees that can hold it. Watchers of one range share a node: most watch the prefix of a resource.
#[derive(Debug, Default)]
struct RangeTree {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: Link,
    draws: u64,
}

type Link = Option<u32>;

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: RangeEnd,
    end_max: RangeEnd,
    ids: Vec<u32>,
    priority: u64,
    left: Link,
    right: Link,
}

impl RangeTree {
    fn insert(&mut self, start: &Bytes, end: &RangeEnd, id: u32) {
        if let Some(at) = self.find(start, end) {
            self.nodes[at as usize].ids.push(id);
            return;
        }
        let node = Node {
            start: start.clone(),
            end: end.clone(),
            end_max: end.clone(),
            ids: vec![id],
            priority: self.draw(),
            left: None,
            right: None,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 ranges are watched")
            }
        };
        let (left, right) = self.split(self.root, start, end);
        let left = self.merge(left, Some(at));
        self.root = self.merge(left, right);
    }

    fn remove(&mut self, start: &Bytes, end: &RangeEnd, id: u32) -> bool {
        let Some(at) = self.find(start, end) else { return false };
        let node = &mut self.nodes[at as usize];
        let removed = remove_id(&mut node.ids, id);
        if node.ids.is_empty() {
            self.root = self.cut(self.root, at);
            self.free.push(at);
        }
        removed
    }

    fn find(&self, start: &[u8], end: &RangeEnd) -> Link {
        let mut link = self.root;
        while let Some(at) = link {
            link = match self.compare(at, start, end) {
                Ordering::Equal => return Some(at),
                Ordering::Less => self.nodes[at as usize].right,
                Ordering::Greater => self.nodes[at as usize].left,
            };
        }
        None
    }

    /// Order of the node against a range.
    fn compare(&self, at: u32, start: &[u8], end: &RangeEnd) -> Ordering {
        let node = &self.nodes[at as usize];
        (*node.start).cmp(start).then_with(|| node.end.cmp(end))
    }

    /// Takes the node out of the subtree.
    fn cut(&mut self, link: Link, target: u32) -> Link {
        let at = link?;
        let (left, right) = (self.nodes[at as usize].left, self.nodes[at as usize].right);
        if at == target {
            return self.merge(left, right);
        }
        let (start, end) =
            (self.nodes[target as usize].start.clone(), self.nodes[target as usize].end.clone());
        if self.compare(at, &start, &end) == Ordering::Less {
            self.nodes[at as usize].right = self.cut(right, target);
        } else {
            self.nodes[at as usize].left = self.cut(left, target);
        }
        self.renew_end_max(at);
        Some(at)
    }

    /// Splits a subtree into what is below the range and what is not.
    fn split(&mut self, link: Link, start: &Bytes, end: &RangeEnd) -> (Link, Link) {
        let Some(at) = link else { return (None, None) };
        if self.compare(at, start, end) == Ordering::Less {
            let (below, above) = self.split(self.nodes[at as usize].right, start, end);
            self.nodes[at as usize].right = below;
            self.renew_end_max(at);
            (Some(at), above)
        } else {
            let (below, above) = self.split(self.nodes[at as usize].left, start, end);
            self.nodes[at as usize].left = above;
            self.renew_end_max(at);
            (below, Some(at))
        }
    }

    /// Joins two subtrees; all of `left` is below all of `right`.
    fn merge(&mut self, left: Link, right: Link) -> Link {
        let (Some(l), Some(r)) = (left, right) else { return left.or(right) };
        if self.nodes[l as usize].priority > self.nodes[r as usize].priority {
            self.nodes[l as usize].right = self.merge(self.nodes[l as usize].right, right);
            self.renew_end_max(l);
            Some(l)
        } else {
            self.nodes[r as usize].left = self.merge(left, self.nodes[r as usize].left);
            self.renew_end_max(r);
            Some(r)
        }
    }

    fn renew_end_max(&mut self, at: u32) {
        let node = &self.nodes[at as usize];
        let mut end_max = &node.end;
        for child in [node.left, node.right].into_iter().flatten() {
            end_max = end_max.max(&self.nodes[child as usize].end_max);
        }
        let end_max = end_max.clone();
        self.nodes[at as usize].end_max = end_max;
    }

    /// Hands the watchers of each range that holds the key to `found` until it answers false; answers whether it went
    /// to the end.
    fn visit(&self, link: Link, key: &[u8], found: &mut dyn FnMut(&[u32]) -> bool) -> bool {
        let Some(at) = link else { return true };
        let node = &self.nodes[at as usize];
        if !node.end_max.is_after(key) {
            return true;
        }
        if !self.visit(node.left, key, found) {
            return false;
        }
        if *node.start > *key {
            return true;
        }
        if node.end.is_after(key) && !found(&node.ids) {
            return false;
        }
        self.visit(node.right, key, found)
    }

    /// The next priority: a fixed sequence (splitmix64) is random enough against the order of clients' ranges.
    fn draw(&mut self) -> u64 {
        self.draws = self.draws.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.draws;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(key: &str, end: &str) -> KeyInterval {
        KeyInterval::from_request(
            Bytes::copy_from_slice(key.as_bytes()),
            Bytes::copy_from_slice(end.as_bytes()),
        )
    }

    #[test]
    fn intervals_follow_etcds_rules() {
        assert!(interval("a", "").contains(b"a"));
        assert!(!interval("a", "").contains(b"aa"));
        assert!(interval("a", "c").contains(b"bzz"));
        assert!(!interval("a", "c").contains(b"c"));
        assert!(interval("b", "\0").contains(b"\xff\xff"));
        assert!(!interval("b", "\0").contains(b"a"));
        assert!(interval("", "\0").contains(b"\0"));
        assert!(interval("", "").contains(b"\0"));
        assert!(!interval("\0", "\0\0").is_empty());
        assert!(interval("b", "a").is_empty());
        assert!(interval("b", "b").is_empty());
        assert!(!interval("b", "\0").is_empty());
    }

    /// Random inserts and removals against a plain list of intervals.
    #[test]
    fn the_index_finds_exactly_the_covering_watchers() {
        for seed in 0..30u64 {
            let mut chance = crate::watch::tests::Chance::new(seed);
            let mut index = IntervalIndex::default();
            let mut plain: Vec<(KeyInterval, u32)> = Vec::new();
            for step in 0..400u32 {
                if plain.is_empty() || chance.below(3) > 0 {
                    let key = chance.key();
                    let end = match chance.below(4) {
                        0 => Bytes::new(),
                        1 => Bytes::from_static(&[0]),
                        _ => chance.key(),
                    };
                    let interval = KeyInterval::from_request(key, end);
                    if interval.is_empty() {
                        continue;
                    }
                    index.insert(&interval, step);
                    plain.push((interval, step));
                } else {
                    let (interval, id) = plain.swap_remove(chance.below(plain.len() as u64) as usize);
                    index.remove(&interval, id);
                    index.remove(&interval, id);
                }
                let key = chance.key();
                let mut found = Vec::new();
                index.for_each(&key, |id| found.push(id));
                found.sort_unstable();
                let mut expected: Vec<u32> =
                    plain.iter().filter(|(i, _)| i.contains(&key)).map(|(_, id)| *id).collect();
                expected.sort_unstable();
                assert_eq!(found, expected, "seed {seed} step {step} key {key:?}");
                assert_eq!(index.covers(&key), !expected.is_empty(), "seed {seed} step {step}");
                assert_eq!(index.len(), plain.len());
            }
        }
    }

    /// Ten thousand nested and disjoint ranges: a key visits few nodes, not all.
    #[test]
    fn a_key_visits_few_of_ten_thousand_ranges() {
        let mut index = IntervalIndex::default();
        for n in 0..10_000u32 {
            index.insert(&interval(&format!("/r/{n:05}/"), &format!("/r/{n:05}0")), n);
        }
        assert!(index.ranges.depth(index.ranges.root) < 60);
        let mut found = Vec::new();
        index.for_each(b"/r/04711/x", |id| found.push(id));
        assert_eq!(found, [4711]);
    }

    impl RangeTree {
        fn depth(&self, link: Link) -> usize {
            link.map_or(0, |at| {
                let node = &self.nodes[at as usize];
                1 + self.depth(node.left).max(self.depth(node.right))
            })
        }
    }
}
