//! Member and cluster id as etcd derives them, so that tools and people see the numbers that they know.

use dqlited_store::MemberId;
use sha1::{Digest, Sha1};

/// A founding member's id: sha1 over its sorted peer URLs and the cluster's token, the first 8 bytes
/// (etcd `server/etcdserver/api/membership/member.go`, `computeMemberID` without a time).
pub fn member_id(peer_urls: &[String], cluster_token: &str) -> MemberId {
    let mut urls = peer_urls.to_vec();
    urls.sort();
    let mut hash = Sha1::new();
    for url in &urls {
        hash.update(url.as_bytes());
    }
    hash.update(cluster_token.as_bytes());
    MemberId(first_eight(&hash.finalize()))
}

/// The cluster's id: sha1 over the founding members' ids, sorted, big endian (etcd `cluster.go`, `genID`).
pub fn cluster_id(members: &[MemberId]) -> u64 {
    let mut ids: Vec<u64> = members.iter().map(|id| id.0).collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    first_eight(&hash.finalize())
}

fn first_eight(hash: &[u8]) -> u64 {
    u64::from_be_bytes(hash[..8].try_into().expect("a sha1 has 20 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_flags_give_etcds_ids() {
        let member = member_id(&["http://localhost:2380".to_string()], "etcd-cluster");
        assert_eq!(format!("{member}"), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id(&[member])), "cdf818194e3a8c32");
    }

    #[test]
    fn the_order_of_peer_urls_does_not_matter() {
        let urls = ["http://b:1".to_string(), "http://a:1".to_string()];
        let mut turned = urls.clone();
        turned.reverse();
        assert_eq!(member_id(&urls, "t"), member_id(&turned, "t"));
    }
}
