//! The one place that learns that this member cannot go on, and tells everybody else.

use std::sync::Arc;

use tokio::sync::watch;

/// The first reason why the member must end. Clones share it.
#[derive(Clone)]
pub(crate) struct Failure {
    words: Arc<watch::Sender<Option<String>>>,
}

impl Default for Failure {
    fn default() -> Self {
        Failure { words: Arc::new(watch::Sender::new(None)) }
    }
}

impl Failure {
    /// Says why the member cannot go on. Only the first reason counts: what follows is its consequence.
    pub(crate) fn report(&self, words: String) {
        let is_first = self.words.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(words.clone());
            }
            is_first
        });
        if is_first {
            tracing::error!(reason = %words, "the member cannot go on");
        } else {
            tracing::debug!(reason = %words, "failure after the first one");
        }
    }

    /// Whether it has happened.
    pub(crate) fn has_happened(&self) -> bool {
        self.words.borrow().is_some()
    }

    /// Waits for it.
    pub(crate) async fn happened(&self) -> String {
        let mut receiver = self.words.subscribe();
        let words = receiver.wait_for(Option::is_some).await.expect("this value holds the sender");
        words.clone().unwrap_or_default()
    }
}
