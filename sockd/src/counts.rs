//! What sockd counts.

proto::counters! {
    /// sockd's counters, as `netctl stats` shows them.
    pub enum Count {
        /// Sessions that were opened.
        Sessions = "sessions_opened",
        /// Sessions refused by a quota or for a bad request.
        SessionsRefused = "sessions_refused",
        /// Sessions that ended, for whatever reason.
        SessionsEnded = "sessions_ended",
        /// Clients sent away because they broke a rule.
        Violations = "session_violations",
        /// Connections dropped before they asked for a session.
        Strangers = "connections_without_session",
        /// Requests answered with a socket.
        Granted = "requests_granted",
        /// Requests answered with an errno.
        Refused = "requests_refused",
        /// Operations passed to netds.
        Commands = "commands",
        /// Answers of netds.
        Answers = "answers",
        /// Slots of a ring that made no sense.
        BadSlots = "bad_slots",
        /// Callers of the admin socket who were not allowed.
        AdminDenied = "admin_denied",
        /// Requests over the admin socket.
        AdminRequests = "admin_requests",
    }
}
