//! Rules of the watch service, one by one, on the hub alone.
