//! The frames between a task and its place: one of each kind that a compiler makes. Async functions within each
//! other, generics, closures, trait objects; inlined by force, kept by force, and left to the compiler.

use std::hint::black_box;

use super::{Point, places, plugin, signal};

/// What is done, one layer within the other.
trait Step {
    fn run(&self) -> u64;
}

/// A generic layer around another one.
struct Layer<T> {
    inner: T,
    weight: u64,
}

/// Awaits before it works, so that the stack begins in a poll that resumes all of the async functions.
pub async fn request(point: Point) -> u64 {
    let layer = Layer {
        inner: point,
        weight: black_box(2),
    };
    black_box(session(layer).await)
}

async fn session<T: Step + Send + 'static>(layer: Layer<T>) -> u64 {
    tokio::task::yield_now().await;
    let step: Box<dyn Step + Send> = Box::new(Layer {
        inner: layer,
        weight: black_box(3),
    });
    async move { through_object(&*step) }.await
}

#[inline(never)]
fn through_object(step: &dyn Step) -> u64 {
    black_box(step.run()).wrapping_add(1)
}

impl<T: Step> Step for Layer<T> {
    #[inline(never)]
    fn run(&self) -> u64 {
        with_closure(|| black_box(self.inner.run()).wrapping_mul(self.weight))
    }
}

#[inline(always)]
fn with_closure<F: FnOnce() -> u64>(work: F) -> u64 {
    black_box(work()).wrapping_add(1)
}

impl Step for Point {
    fn run(&self) -> u64 {
        black_box(arrive(*self))
    }
}

#[inline(always)]
fn arrive(point: Point) -> u64 {
    match point {
        Point::Lock => places::at_lock(),
        Point::Burn => places::at_burn(),
        Point::Sleep => places::at_sleep(),
        Point::ReturnProbe => places::at_return_probe(),
        Point::Deep => places::at_deep(),
        Point::Blake3 => places::at_blake3(),
        Point::LargeFrame => places::at_large_frame(),
        Point::Realigned => places::at_realigned_frame(),
        Point::SignalBurn | Point::SignalSleep => signal::at_signal(),
        Point::Plugin => plugin::at_plugin(),
        // Not a task's.
        Point::Unlock => 0,
    }
}
