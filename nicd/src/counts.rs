//! What nicd counts. Every frame that is dropped stands under exactly one `drop_` name.

proto::counters! {
    /// An event that is counted.
    pub enum Count {
        /// Frames handed up to netd.
        RxFrames = "rx_frames",
        /// Bytes in them.
        RxBytes = "rx_bytes",
        /// Frames handed to the device.
        TxFrames = "tx_frames",
        /// Bytes in them.
        TxBytes = "tx_bytes",
        /// Times that receiving stopped because netd had lent no more pages.
        RxStarved = "rx_starved",
        /// Times that receiving stopped because enough waited for netd.
        RxAhead = "rx_ahead",
        /// Frames copied from the pages of one shard into those of another.
        RxSteered = "rx_steered",
        /// Frames for a shard that is missing or behind, with no more room to wait for it.
        RxShardBehind = "drop_rx_shard_behind",
        /// Times that transmitting stopped because the device took no more.
        TxStopped = "tx_stopped",
        /// Times that it went on again.
        TxWoken = "tx_woken",
        /// Rounds that ended with work left because the budget was used up.
        TimeSqueeze = "time_squeeze",
        /// Times that netd was woken.
        Wakeups = "wakeups_sent",
        /// Times that this daemon went to sleep.
        Sleeps = "sleeps",
        /// Frames for another station.
        RxOtherHost = "drop_rx_other_host",
        /// Frames that the device reported as bad, or cut off.
        RxError = "drop_rx_error",
        /// Frames that came for us while the kernel's ring was full.
        RxRing = "drop_rx_ring",
        /// Frames longer than the MTU allows, or shorter than a header.
        TxLength = "drop_tx_length",
        /// Frames that ask for what the device does not do.
        TxUnsupported = "drop_tx_unsupported",
        /// Frames that the device refused, as one that is down does.
        TxError = "drop_tx_error",
        /// Frames sent while there was no carrier.
        TxNoCarrier = "drop_tx_no_carrier",
        /// Frames that a wire lost on purpose.
        WireLost = "drop_wire_lost",
        /// Frames that a wire delivered twice on purpose.
        WireDoubled = "wire_doubled",
        /// Frames that a wire held back behind later ones on purpose.
        WireReordered = "wire_reordered",
        /// Frames in which a wire flipped a bit on purpose.
        WireCorrupted = "wire_corrupted",
        /// Times that the other end of a wire broke a rule of the cable.
        WirePeerCorrupt = "wire_peer_corrupt",
        /// Times that the carrier came.
        CarrierUp = "carrier_up",
        /// Times that the carrier went.
        CarrierDown = "carrier_down",
        /// Interrupts of the device.
        Interrupts = "interrupts",
        /// Of them, those that told of the link.
        LinkInterrupts = "interrupts_link",
        /// Of them, those that told of frames that came; of either way where the chip does not tell them apart.
        ReceiveInterrupts = "interrupts_receive",
        /// Of them, those that told of frames that went; as above.
        TransmitInterrupts = "interrupts_transmit",
        /// Of them, those that told of frames for which the device had no page.
        OverrunInterrupts = "interrupts_overrun",
        /// Times that the least time between two interrupts was changed.
        Throttles = "throttle_changes",
        /// Rounds of polling.
        Polls = "polls",
        /// Registers of the device written to tell it of new descriptors.
        Doorbells = "doorbells",
        /// Times that the device was stopped because a netd was gone.
        DeviceStops = "device_stops",
        /// Times that a netd broke a rule of the rings.
        PeerCorrupt = "peer_corrupt",
        /// Times that a netd was reported because it stood still.
        PeerStuck = "peer_stuck",
    }
}

/// The counts of this daemon.
pub type Counts = proto::stats::Counts<Count>;
