//! What keeps a fault in the work on one source from ending a daemon: the others have their turns, too.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;

/// A panic, of which standard error has more.
#[derive(Debug, thiserror::Error)]
#[error("a fault of pgproof itself broke it off: {what}")]
pub struct Panicked {
    what: String,
}

/// Work that comes to its end, or to a panic that ends nothing else.
///
/// # Errors
/// When it panics.
pub async fn guarded<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    // Whatever was half-done in it goes with it; what is shared is the policy, which nobody changes, and the store.
    let ended = AssertUnwindSafe(work).catch_unwind().await;
    ended.map_err(|panic| Panicked { what: told(&*panic) })
}

fn told(panic: &(dyn Any + Send)) -> String {
    let told = panic.downcast_ref::<&str>().map(ToString::to_string);
    let told = told.or_else(|| panic.downcast_ref::<String>().cloned());
    told.unwrap_or_else(|| "it did not say how".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_that_says_what_it_said() {
        assert_eq!(guarded(async { 7 }).await.unwrap(), 7);
        for (work, words) in [("constant", "broke it off: constant"), ("7 of 8", "broke it off: 7 of 8")] {
            let panicked =
                guarded(async { if work == "constant" { panic!("constant") } else { panic!("{} of 8", 7) } });
            let panicked: Result<(), Panicked> = panicked.await;
            assert!(panicked.unwrap_err().to_string().ends_with(words));
        }
    }
}
