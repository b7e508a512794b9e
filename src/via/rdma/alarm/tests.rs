use super::super::verbs::Outcome;
use super::*;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};

/// What the device does before it is asked the next thing.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    Completes,
    /// An event that it still owes comes out.
    Tells,
    /// An event for nothing.
    Errs,
}

/// A queue whose events may come later than what they tell of.
struct Device {
    script: RefCell<Vec<Before>>,
    waiting: Cell<usize>,
    armed: Cell<bool>,
    owed: Cell<bool>,
    event: Cell<bool>,
}

impl Device {
    fn goes_on(&self) {
        match self.script.borrow_mut().pop() {
            Some(Before::Completes) => {
                self.waiting.set(self.waiting.get() + 1);
                self.owed.set(self.owed.get() | self.armed.replace(false));
            }
            Some(Before::Tells) => self.event.set(self.event.get() | self.owed.take()),
            Some(Before::Errs) => self.event.set(true),
            Some(Before::Nothing) | None => {}
        }
    }
}

impl Queue for Device {
    fn poll(&self, _out: &mut [Completion; 16]) -> io::Result<usize> {
        self.goes_on();
        let n = self.waiting.get().min(16);
        self.waiting.set(self.waiting.get() - n);
        Ok(n)
    }

    fn take_event(&self) -> bool {
        self.goes_on();
        self.event.take()
    }

    fn arm(&self) -> io::Result<()> {
        self.goes_on();
        self.armed.set(true);
        Ok(())
    }
}

fn script() -> impl Strategy<Value = Vec<Before>> {
    let before = prop_oneof![
        3 => Just(Before::Nothing),
        3 => Just(Before::Completes),
        3 => Just(Before::Tells),
        1 => Just(Before::Errs),
    ];
    prop::collection::vec(before, 0..200)
}

proptest! {
    /// Whoever found nothing may sleep: what is there has its event, and what comes will have one.
    #[test]
    fn nothing_waits_without_an_event(
        script in script(),
        mut looks in prop::collection::vec(any::<bool>(), 0..100),
    ) {
        let device = Device {
            script: RefCell::new(script),
            waiting: Cell::new(0),
            armed: Cell::new(true),
            owed: Cell::new(false),
            event: Cell::new(false),
        };
        let alarm = Alarm::default();
        let mut out = [Completion { id: 0, outcome: Outcome::Sent }; 16];
        let mut quiet = 0;
        // Until the device is quiet, and then often enough to have done with its last event.
        while quiet < 40 {
            quiet = if device.script.borrow().is_empty() { quiet + 1 } else { 0 };
            // A thread that looks sleeps at last, and polls before that.
            let looked = quiet == 0 && looks.pop().unwrap_or(false);
            let found = match looked {
                true => alarm.look(&device, &mut out),
                false => alarm.poll(&device, &mut out),
            };
            if found.expect("polls") == 0 {
                let wakes = device.event.get() || device.owed.get();
                prop_assert!(wakes || device.waiting.get() == 0, "a completion without an event");
                prop_assert!(wakes || device.armed.get(), "the next one would have no event");
            }
            if quiet == 20 {
                device.event.set(device.event.get() | device.owed.take());
            }
        }
        prop_assert!(!device.event.get(), "the descriptor stays readable for nothing");
    }
}
