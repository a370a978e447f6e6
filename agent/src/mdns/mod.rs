//! Announcements on the LAN.
