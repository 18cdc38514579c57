//! Counters by name, on the daemon's own heap.

/// A list of things to count, each with a name: made by [`crate::counters!`].
pub trait Named: Copy + 'static {
    /// All of them, in the order of their places.
    const ALL: &'static [Self];
    /// Its place in the list.
    fn index(self) -> usize;
    /// The name that `netctl stats` shows: lower case and `_`, at most
    /// [`NAME_MAX`](super::NAME_MAX) bytes.
    fn name(self) -> &'static str;
}

/// Defines an enum of counters with their names.
///
/// ```
/// proto::counters! {
///     /// What is counted here.
///     pub enum Count {
///         /// Frames that came in.
///         RxFrames = "rx_frames",
///     }
/// }
/// let mut counts = proto::stats::Counts::<Count>::default();
/// counts.add(Count::RxFrames, 3);
/// assert_eq!(counts.each().collect::<Vec<_>>(), [("rx_frames", 3)]);
/// ```
#[macro_export]
macro_rules! counters {
    ($(#[$doc:meta])* $vis:vis enum $name:ident {
        $($(#[$each:meta])+ $variant:ident = $text:literal),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $vis enum $name { $($(#[$each])+ $variant,)* }

        impl $crate::stats::Named for $name {
            const ALL: &'static [Self] = &[$($name::$variant,)*];

            fn index(self) -> usize {
                self as usize
            }

            fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

/// The counts of a list since the daemon started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts<C> {
    values: Vec<u64>,
    list: core::marker::PhantomData<C>,
}

impl<C: Named> Default for Counts<C> {
    fn default() -> Self {
        Counts { values: vec![0; C::ALL.len()], list: core::marker::PhantomData }
    }
}

impl<C: Named> Counts<C> {
    /// One more.
    pub fn count(&mut self, what: C) {
        self.add(what, 1);
    }

    /// `n` more.
    pub fn add(&mut self, what: C, n: u64) {
        self.values[what.index()] += n;
    }

    /// How many so far.
    pub fn get(&self, what: C) -> u64 {
        self.values[what.index()]
    }

    /// All names with their counts, in the list's order.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        C::ALL.iter().map(|&what| (what.name(), self.get(what)))
    }
}
