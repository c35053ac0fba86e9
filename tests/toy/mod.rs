//! The dialect of the tests: written next.
