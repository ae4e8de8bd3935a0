// Compiled by the test in `builds.rs`, as a crate that is named tokio, in several ways.

pub mod runtime {
    pub mod scheduler {
        pub mod current_thread {
            pub struct Handle;
        }
    }
    pub mod task {
        pub mod raw {
            use std::marker::PhantomData;

            #[inline(never)]
            pub fn poll<F, S>(future: PhantomData<(F, S)>) -> usize {
                std::hint::black_box(size_of_val(&future) + size_of::<F>())
            }
        }
    }
}

pub struct Raw;

pub struct Guarded<R, T>(R, T);

impl<R, T: Copy> Guarded<R, T> {
    #[inline(always)]
    pub fn lock(&self) -> T {
        std::hint::black_box(self.1)
    }
}

#[inline(never)]
#[unsafe(no_mangle)]
pub fn marker(n: u64) -> u64 {
    let guarded = Guarded(Raw, n);
    guarded.lock().wrapping_mul(3)
}

fn main() {
    use runtime::scheduler::current_thread::Handle;
    let polled = runtime::task::raw::poll::<[u8; 7], Handle>(std::marker::PhantomData);
    println!("{}", marker(polled as u64));
}
