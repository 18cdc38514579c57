//! libnetclient
