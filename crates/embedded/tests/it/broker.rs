//! The embedded broker, spoken to over its socket.
