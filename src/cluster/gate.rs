//! Keeps an operator that does not lead any more from writing: asked by every client at every request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::{Either, Ready, ready};
use http::{Method, Request};
use tower::{BoxError, Layer, Service};

/// Open until an instant that is moved on while the operator leads. It is time that closes it: a process that was stopped
/// finds it closed before it learns of anything else.
#[derive(Debug, Clone)]
pub struct Gate {
    started: Instant,
    /// Microseconds since then.
    until: Arc<AtomicU64>,
}

/// Why a request was not sent.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("this operator does not lead any more")]
pub(super) struct NotLeading;

impl Gate {
    /// For programs that need no leader.
    pub fn open() -> Self {
        Self { started: Instant::now(), until: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    /// For those that do.
    pub fn closed() -> Self {
        Self { started: Instant::now(), until: Arc::default() }
    }

    /// Time since the gate was made.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Opens it until then, in terms of [`Gate::now`]; or closes it.
    pub fn open_until(&self, until: Option<Duration>) {
        let micros = u64::try_from(until.unwrap_or_default().as_micros()).unwrap_or(u64::MAX);
        self.until.store(micros, Ordering::SeqCst);
    }

    fn is_open(&self) -> bool {
        self.now() < Duration::from_micros(self.until.load(Ordering::SeqCst))
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.clone() }
    }
}

/// A service behind a gate.
#[derive(Debug, Clone)]
pub struct Gated<S> {
    inner: S,
    gate: Gate,
}

impl<S, B> Service<Request<B>> for Gated<S>
where
    S: Service<Request<B>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // What only asks, by POST, is refused too: who does not lead has nothing to ask.
        let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if reads || self.gate.is_open() {
            Either::Left(self.inner.call(request))
        } else {
            Either::Right(ready(Err(NotLeading.into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn sent(gate: &Gate, method: &str) -> bool {
        let service = gate.layer(service_fn(|_: Request<()>| async { Ok::<_, BoxError>(()) }));
        match service.oneshot(Request::builder().method(method).body(()).unwrap()).await {
            Ok(()) => true,
            Err(error) => {
                assert!(error.is::<NotLeading>(), "{error}");
                false
            }
        }
    }

    #[tokio::test]
    async fn writes_pass_only_while_the_gate_is_open() {
        let gate = Gate::closed();
        assert!(sent(&gate, "GET").await);
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            gate.open_until(None);
            assert!(!sent(&gate, method).await, "{method}");
            gate.open_until(Some(gate.now() + Duration::from_secs(60)));
            assert!(sent(&gate, method).await, "{method}");
            // Nobody closes it; time does.
            gate.open_until(Some(gate.now()));
            assert!(!sent(&gate, method).await, "{method}");
            assert!(sent(&Gate::open(), method).await);
        }
    }
}
