//! Bounded ring between a device's thread and ours.
//! In: samples of a device callback. Out: the same samples, later, on another thread.
//! Invariant: writing allocates nothing, locks nothing and never waits; what does not fit is
//! counted.

use heapless::spsc::Consumer;
use heapless::spsc::Producer;
use heapless::spsc::Queue;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Samples that a ring holds: 4 s at 16 kHz, more than 1 s at 48 kHz.
pub const RING_SAMPLES: usize = 65_536;

/// The queue keeps one place free to tell full from empty.
type Samples = Queue<f32, { RING_SAMPLES + 1 }>;

/// Both ends of a queue whose memory is kept until the program ends.
type Ends = (Producer<'static, f32>, Consumer<'static, f32>);

/// Ends that were dropped.
type Home = (Option<Producer<'static, f32>>, Option<Consumer<'static, f32>>);

/// Queues of rings that are gone, for the next ones.
static SPARE: Mutex<Vec<Ends>> = Mutex::new(Vec::new());

/// What both ends of a ring share; it goes with the last of them.
#[derive(Default)]
struct Shared {
    n_lost: AtomicU64,
    home: Mutex<Home>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let home = self.home.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let (Some(producer), Some(mut consumer)) = (home.0.take(), home.1.take()) {
            while consumer.dequeue().is_some() {}
            SPARE.lock().unwrap_or_else(PoisonError::into_inner).push((producer, consumer));
        }
    }
}

/// The end that a device callback writes to.
pub struct RingWriter {
    /// None only while it is dropped.
    producer: Option<Producer<'static, f32>>,
    shared: Arc<Shared>,
}

/// The end that our thread reads from.
pub struct RingReader {
    /// None only while it is dropped.
    consumer: Option<Consumer<'static, f32>>,
    shared: Arc<Shared>,
    n_reported: u64,
}

/// Creates a ring.
///
/// Both ends must outlive every borrow, so its 256 KiB stay with the program; the next ring uses
/// them again when both ends are gone.
pub fn ring() -> (RingWriter, RingReader) {
    let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let (producer, consumer) = spare.unwrap_or_else(|| {
        let samples: &'static mut Samples = Box::leak(Box::new(Queue::new()));
        samples.split()
    });
    let shared = Arc::new(Shared::default());
    let writer = RingWriter { producer: Some(producer), shared: Arc::clone(&shared) };
    (writer, RingReader { consumer: Some(consumer), shared, n_reported: 0 })
}

impl Drop for RingWriter {
    fn drop(&mut self) {
        self.shared.home.lock().unwrap_or_else(PoisonError::into_inner).0 = self.producer.take();
    }
}

impl Drop for RingReader {
    fn drop(&mut self) {
        self.shared.home.lock().unwrap_or_else(PoisonError::into_inner).1 = self.consumer.take();
    }
}

impl RingWriter {
    /// Writes what fits, counts the rest as lost, and returns how many samples fitted.
    pub fn write(&mut self, samples: impl IntoIterator<Item = f32>) -> usize {
        let mut samples = samples.into_iter();
        let mut n_written = 0;
        let Some(producer) = &mut self.producer else { return 0 };
        while producer.ready() {
            let Some(sample) = samples.next() else { return n_written };
            // The place that was just seen can only be taken by this writer.
            let is_full = producer.enqueue(sample).is_err();
            n_written += usize::from(!is_full);
        }
        let n_lost = samples.count() as u64;
        if n_lost > 0 {
            self.shared.n_lost.fetch_add(n_lost, Ordering::Relaxed);
        }
        n_written
    }

    /// Returns how many samples fit now.
    pub fn free(&self) -> usize {
        RING_SAMPLES - self.producer.as_ref().map_or(0, Producer::len)
    }
}

impl RingReader {
    /// Appends all samples that are there to `samples` and returns how many there were.
    pub fn read(&mut self, samples: &mut Vec<f32>) -> usize {
        let n = self.len();
        samples.reserve(n);
        samples.extend((0..n).map_while(|_| self.next_sample()));
        n
    }

    /// Returns the next sample, as a speaker's callback wants it.
    pub fn next_sample(&mut self) -> Option<f32> {
        self.consumer.as_mut()?.dequeue()
    }

    /// Returns how many samples wait.
    pub fn len(&self) -> usize {
        self.consumer.as_ref().map_or(0, Consumer::len)
    }

    /// Returns whether no sample waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many samples were lost since this was last asked.
    pub fn take_lost(&mut self) -> u64 {
        let n_lost = self.shared.n_lost.load(Ordering::Relaxed);
        let n_new = n_lost - self.n_reported;
        self.n_reported = n_lost;
        n_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let (mut writer, mut reader) = ring();
        assert_eq!(writer.write((0..60_000).map(|i| i as f32)), 60_000);
        assert_eq!(writer.free(), RING_SAMPLES - 60_000);
        assert_eq!(writer.write((60_000..90_000).map(|i| i as f32)), RING_SAMPLES - 60_000);
        assert_eq!(reader.take_lost(), 90_000 - RING_SAMPLES as u64);
        assert_eq!(reader.take_lost(), 0);
        let mut samples = vec![-1.0];
        assert_eq!(reader.read(&mut samples), RING_SAMPLES);
        assert!(samples.iter().enumerate().all(|(i, &sample)| sample == i as f32 - 1.0));
        assert!(reader.is_empty() && reader.next_sample().is_none());
        writer.write([0.5]);
        assert_eq!((reader.len(), reader.next_sample()), (1, Some(0.5)));
    }

    #[test]
    fn a_ring_that_comes_back_is_new() {
        // Other tests hold a few rings; these must not add one each.
        let spare = || SPARE.lock().unwrap().len();
        for _ in 0..500 {
            let (mut writer, mut reader) = ring();
            assert!(reader.is_empty() && reader.take_lost() == 0);
            assert_eq!(writer.write([0.5; RING_SAMPLES + 7]), RING_SAMPLES);
            assert_eq!(reader.next_sample(), Some(0.5));
        }
        assert!((1..400).contains(&spare()), "{} rings are kept", spare());
    }

    #[test]
    fn two_threads_lose_nothing_uncounted() {
        const N: u32 = 1 << 20;
        let (mut writer, mut reader) = ring();
        let thread = std::thread::spawn(move || {
            for block in 0..N / 256 {
                writer.write((block * 256..(block + 1) * 256).map(|i| i as f32));
            }
        });
        let mut samples = Vec::new();
        while !thread.is_finished() {
            reader.read(&mut samples);
        }
        thread.join().unwrap();
        reader.read(&mut samples);
        assert_eq!(samples.len() as u64 + reader.take_lost(), u64::from(N));
        assert!(samples.is_sorted_by(|a, b| a < b));
    }
}
