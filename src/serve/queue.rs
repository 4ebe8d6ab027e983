//! The jobs that wait and the job that runs: one at a time, in order, each of them stopped by its
//! number.

use super::request::Job;
use crate::model::Interrupt;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Jobs that may wait.
const MOST: usize = 8;

/// What waits and what runs.
#[derive(Debug)]
pub(super) struct Queue {
    jobs: Mutex<Jobs>,
    added: Condvar,
    interrupt: Interrupt,
}

#[derive(Debug, Default)]
struct Jobs {
    last: u64,
    waiting: VecDeque<(u64, Job)>,
    running: Option<(u64, String)>,
}

impl Queue {
    /// An empty queue. `interrupt` ends what the networks do for the job that runs.
    pub fn new(interrupt: Interrupt) -> Self {
        Self { jobs: Mutex::default(), added: Condvar::new(), interrupt }
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `job` behind the others and returns its number; `None` where too many wait.
    pub fn add(&self, job: Job) -> Option<u64> {
        let mut jobs = self.jobs();
        if jobs.waiting.len() >= MOST {
            return None;
        }
        jobs.last += 1;
        let number = jobs.last;
        jobs.waiting.push_back((number, job));
        self.added.notify_one();
        Some(number)
    }

    /// Waits for the next job, which then runs.
    pub fn next(&self) -> (u64, Job) {
        let mut jobs = self.jobs();
        loop {
            if let Some((number, job)) = jobs.waiting.pop_front() {
                // While the lock is held no request is for this job.
                self.interrupt.clear();
                jobs.running = Some((number, job.title()));
                return (number, job);
            }
            jobs = self.added.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The job that ran is done.
    pub fn finish(&self) {
        self.jobs().running = None;
    }

    /// Ends the job `number`: it leaves the queue, or what it does is interrupted. Whether there is
    /// such a job.
    pub fn stop(&self, number: u64) -> bool {
        let mut jobs = self.jobs();
        if jobs.running.as_ref().is_some_and(|(running, _)| *running == number) {
            self.interrupt.request();
            return true;
        }
        let before = jobs.waiting.len();
        jobs.waiting.retain(|(waiting, _)| *waiting != number);
        jobs.waiting.len() < before
    }

    /// Whether the job that runs is to end.
    pub fn is_stopped(&self) -> bool {
        self.interrupt.is_requested()
    }

    /// The jobs for a page: `running` and `waiting`, each with its number and title.
    pub fn state(&self) -> Value {
        let jobs = self.jobs();
        let running = jobs.running.as_ref().map(|(number, title)| json!({"job": number, "title": title}));
        let waiting: Vec<Value> =
            jobs.waiting.iter().map(|(number, job)| json!({"job": number, "title": job.title()})).collect();
        json!({"running": running, "waiting": waiting})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(run: &str) -> Job {
        serde_json::from_value(json!({"kind": "explain", "run": run})).unwrap()
    }

    #[test]
    fn jobs_run_in_order_and_are_stopped_by_their_number() {
        let queue = Queue::new(Interrupt::default());
        let numbers: Vec<u64> = ["a", "b", "c"].map(|run| queue.add(explain(run)).unwrap()).into();
        assert_eq!(numbers, [1, 2, 3]);
        assert!(queue.stop(2) && !queue.stop(2) && !queue.stop(9));
        assert_eq!(queue.next().0, 1);
        assert!(queue.stop(1) && queue.is_stopped());
        queue.finish();
        assert!(!queue.stop(1));
        assert_eq!(queue.next().0, 3);
        assert!(!queue.is_stopped(), "what ended one job does not end the next");
        assert_eq!(queue.state()["running"]["job"], 3);
    }

    #[test]
    fn a_full_queue_takes_no_more() {
        let queue = Queue::new(Interrupt::default());
        assert!((0..MOST).all(|_| queue.add(explain("a")).is_some()) && queue.add(explain("a")).is_none());
    }
}
