//! What the VMs of one `vm_id` share: data, and queues.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

/// The shared data of one Envoy, for all of its workers.
#[derive(Clone, Default)]
pub struct SharedData(Rc<RefCell<Shared>>);

#[derive(Default)]
struct Shared {
    values: BTreeMap<Vec<u8>, (Vec<u8>, u32)>,
    /// The newest mark; one row for all values.
    mark: u32,
    queues: Vec<Queue>,
    workers: usize,
}

struct Queue {
    name: Vec<u8>,
    /// The last that has registered it.
    worker: usize,
    entries: VecDeque<Vec<u8>>,
    /// How often the worker is still to be called.
    calls: usize,
}

impl SharedData {
    /// A number for one more worker.
    pub(super) fn add_worker(&self) -> usize {
        let mut shared = self.0.borrow_mut();
        shared.workers += 1;
        shared.workers
    }

    /// A value with its mark.
    pub(super) fn get(&self, key: &[u8]) -> Option<(Vec<u8>, u32)> {
        self.0.borrow().values.get(key).cloned()
    }

    /// `false` when there is a value with another mark; the mark 0 is any.
    pub(super) fn set(&self, key: Vec<u8>, value: Vec<u8>, mark: u32) -> bool {
        let mut shared = self.0.borrow_mut();
        if shared.values.get(&key).is_some_and(|(_, current)| mark != 0 && mark != *current) {
            return false;
        }
        shared.mark += 1;
        let mark = shared.mark;
        shared.values.insert(key, (value, mark));
        true
    }

    /// The number of the queue of this name, which is that worker's from now on.
    pub(super) fn register_queue(&self, name: Vec<u8>, worker: usize) -> usize {
        let queues = &mut self.0.borrow_mut().queues;
        if let Some(index) = queues.iter().position(|queue| queue.name == name) {
            queues[index].worker = worker;
            return index;
        }
        queues.push(Queue { name, worker, entries: VecDeque::new(), calls: 0 });
        queues.len() - 1
    }

    /// `false` when there is no such queue.
    pub(super) fn enqueue(&self, queue: usize, entry: Vec<u8>) -> bool {
        let queues = &mut self.0.borrow_mut().queues;
        let Some(queue) = queues.get_mut(queue) else { return false };
        queue.entries.push_back(entry);
        queue.calls += 1;
        true
    }

    /// `None` when there is no such queue, `Some(None)` when it is empty.
    pub(super) fn dequeue(&self, queue: usize) -> Option<Option<Vec<u8>>> {
        self.0.borrow_mut().queues.get_mut(queue).map(|queue| queue.entries.pop_front())
    }

    /// A queue about which that worker is to be called, once for each entry.
    pub(super) fn take_call(&self, worker: usize) -> Option<usize> {
        let queues = &mut self.0.borrow_mut().queues;
        let due = queues.iter().position(|queue| queue.worker == worker && queue.calls > 0)?;
        queues[due].calls -= 1;
        Some(due)
    }
}
