//! Checks that hold on several chips.

/// Each check of a test's `checks` on each of these chips, a test of its own: `check::chip`.
macro_rules! checks_on {
    (@each $name:ident { $($test:ident = $chip:ident),* }) => {
        $(#[test]
        fn $test() {
            super::checks::$name::<super::$chip>();
        })*
    };
    ($chips:tt $($name:ident)*) => {
        $(mod $name {
            crate::checks_on::checks_on! { @each $name $chips }
        })*
    };
}
pub(crate) use checks_on;
