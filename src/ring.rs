//! Bounded ring between a device's thread and ours.
//! In: samples of a device callback. Out: the same samples, later, on another thread.
//! Invariant: writing allocates nothing, locks nothing and never waits; what does not fit is
//! counted.

use heapless::spsc::Consumer;
use heapless::spsc::Producer;
use heapless::spsc::Queue;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Samples that a ring holds: 1 s at 16 kHz, a third at 48 kHz.
pub const RING_SAMPLES: usize = 16_384;

/// The queue keeps one place free to tell full from empty.
type Samples = Queue<f32, { RING_SAMPLES + 1 }>;

/// The end that a device callback writes to.
pub struct RingWriter {
    producer: Producer<'static, f32>,
    n_lost: Arc<AtomicU64>,
}

/// The end that our thread reads from.
pub struct RingReader {
    consumer: Consumer<'static, f32>,
    n_lost: Arc<AtomicU64>,
    n_reported: u64,
}

/// Creates a ring.
///
/// Its 64 KiB are never given back, because both ends must outlive every borrow: make one for
/// each device of a program, and keep it when the device is opened again.
pub fn ring() -> (RingWriter, RingReader) {
    let samples: &'static mut Samples = Box::leak(Box::new(Queue::new()));
    let (producer, consumer) = samples.split();
    let n_lost = Arc::new(AtomicU64::new(0));
    let writer = RingWriter { producer, n_lost: Arc::clone(&n_lost) };
    (writer, RingReader { consumer, n_lost, n_reported: 0 })
}

impl RingWriter {
    /// Writes what fits, counts the rest as lost, and returns how many samples fitted.
    pub fn write(&mut self, samples: impl IntoIterator<Item = f32>) -> usize {
        let mut samples = samples.into_iter();
        let mut n_written = 0;
        while self.producer.ready() {
            let Some(sample) = samples.next() else { return n_written };
            // The place that was just seen can only be taken by this writer.
            let is_full = self.producer.enqueue(sample).is_err();
            n_written += usize::from(!is_full);
        }
        let n_lost = samples.count() as u64;
        if n_lost > 0 {
            self.n_lost.fetch_add(n_lost, Ordering::Relaxed);
        }
        n_written
    }

    /// Returns how many samples fit now.
    pub fn free(&self) -> usize {
        RING_SAMPLES - self.producer.len()
    }
}

impl RingReader {
    /// Appends all samples that are there to `samples` and returns how many there were.
    pub fn read(&mut self, samples: &mut Vec<f32>) -> usize {
        let n = self.consumer.len();
        samples.reserve(n);
        samples.extend((0..n).map_while(|_| self.consumer.dequeue()));
        n
    }

    /// Returns the next sample, as a speaker's callback wants it.
    pub fn next_sample(&mut self) -> Option<f32> {
        self.consumer.dequeue()
    }

    /// Returns how many samples wait.
    pub fn len(&self) -> usize {
        self.consumer.len()
    }

    /// Returns whether no sample waits.
    pub fn is_empty(&self) -> bool {
        self.consumer.is_empty()
    }

    /// Returns how many samples were lost since this was last asked.
    pub fn take_lost(&mut self) -> u64 {
        let n_lost = self.n_lost.load(Ordering::Relaxed);
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
        assert_eq!(writer.write((0..10_000).map(|i| i as f32)), 10_000);
        assert_eq!(writer.free(), RING_SAMPLES - 10_000);
        assert_eq!(writer.write((10_000..20_000).map(|i| i as f32)), RING_SAMPLES - 10_000);
        assert_eq!(reader.take_lost(), 20_000 - RING_SAMPLES as u64);
        assert_eq!(reader.take_lost(), 0);
        let mut samples = vec![-1.0];
        assert_eq!(reader.read(&mut samples), RING_SAMPLES);
        assert!(samples.iter().enumerate().all(|(i, &sample)| sample == i as f32 - 1.0));
        assert!(reader.is_empty() && reader.next_sample().is_none());
        writer.write([0.5]);
        assert_eq!((reader.len(), reader.next_sample()), (1, Some(0.5)));
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
