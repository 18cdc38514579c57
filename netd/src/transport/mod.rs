//! Between IP and the sockets: which connection, listener or datagram socket a packet is for.

pub mod demux;
pub mod flow_table;
