/* The socket calls of POSIX on the Axolotl stack. Made from the sources; do not edit.
 *
 * Link with -lnetclient (pkg-config netclient). Each call does what its namesake without nc_ does;
 * descriptors that are not ours are passed on to the kernel's. See the README for what differs. */
#ifndef NETCLIENT_H
#define NETCLIENT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <poll.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Opens the session with a group that the process's sockets will live in, instead of the one that
 * the first call would open: group null for the one that AXOLOTL names; numbers of 0 take the
 * default: active sockets of connect, listen and UDP, passive connections accepted at a time,
 * pages of 16 KiB to send from and to receive into. Sockets that are there already stay where they are. */
int nc_session(const char *group, unsigned int active, unsigned int passive, unsigned int tx_pages, unsigned int rx_pages);

/* socket(2): AF_INET and AF_INET6, SOCK_STREAM and SOCK_DGRAM, with SOCK_NONBLOCK and SOCK_CLOEXEC. */
int nc_socket(int domain, int kind, int protocol);

/* bind(2). */
int nc_bind(int fd, const struct sockaddr *addr, socklen_t len);

/* listen(2). */
int nc_listen(int fd, int backlog);

/* connect(2). AF_UNSPEC undoes it. */
int nc_connect(int fd, const struct sockaddr *addr, socklen_t len);

/* accept(2). */
int nc_accept(int fd, struct sockaddr *addr, socklen_t *len);

/* accept4(2), with SOCK_NONBLOCK and SOCK_CLOEXEC. */
int nc_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);

/* close(2). With SO_LINGER and a time it waits, as a kernel's does. */
int nc_close(int fd);

/* shutdown(2). */
int nc_shutdown(int fd, int how);

/* getsockname(2). */
int nc_getsockname(int fd, struct sockaddr *addr, socklen_t *len);

/* getpeername(2). */
int nc_getpeername(int fd, struct sockaddr *addr, socklen_t *len);

/* read(2). */
ssize_t nc_read(int fd, void *buf, size_t count);

/* readv(2). */
ssize_t nc_readv(int fd, const struct iovec *iov, int count);

/* recv(2). */
ssize_t nc_recv(int fd, void *buf, size_t len, int flags);

/* recvfrom(2). */
ssize_t nc_recvfrom(int fd, void *buf, size_t len, int flags, struct sockaddr *addr, socklen_t *addr_len);

/* recvmsg(2); the control messages are those that were asked for. */
ssize_t nc_recvmsg(int fd, struct msghdr *message, int flags);

/* recvmmsg(2). */
int nc_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout);

/* write(2). */
ssize_t nc_write(int fd, const void *buf, size_t count);

/* writev(2). */
ssize_t nc_writev(int fd, const struct iovec *iov, int count);

/* send(2). */
ssize_t nc_send(int fd, const void *buf, size_t len, int flags);

/* sendto(2). */
ssize_t nc_sendto(int fd, const void *buf, size_t len, int flags, const struct sockaddr *addr, socklen_t addr_len);

/* sendmsg(2), with the control messages of IP and IPv6. */
ssize_t nc_sendmsg(int fd, const struct msghdr *message, int flags);

/* sendmmsg(2). */
int nc_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);

/* sendfile(2), from a descriptor of the kernel: read straight into the pages that are sent from. */
ssize_t nc_sendfile(int out, int from, off_t *offset, size_t count);

/* Reserves room for up to len bytes in a connection's send stream and says where it lies: at most
 * *count pieces in iov, whose number comes back in *count. Returns the bytes reserved, at least
 * one. They are the caller's until nc_send_commit; meanwhile every other send on the socket fails
 * with EBUSY. Waits for room as a send does. */
ssize_t nc_send_reserve(int fd, size_t len, struct iovec *iov, int *count);

/* Sends the first len bytes of what was reserved and ends the reservation; 0 sends nothing. */
int nc_send_commit(int fd, size_t len);

/* Waits for bytes as a read does and says where they lie: at most *count pieces in iov, whose
 * number comes back in *count. Returns how many bytes that are, 0 at the end of the stream. They
 * stay there until nc_recv_consume. */
ssize_t nc_recv_peek(int fd, struct iovec *iov, int *count);

/* Takes the first len bytes off the receive stream. */
int nc_recv_consume(int fd, size_t len);

/* setsockopt(2). */
int nc_setsockopt(int fd, int level, int name, const void *value, socklen_t len);

/* getsockopt(2). TCP_INFO fills Linux's struct tcp_info; what the stack does not count is 0. */
int nc_getsockopt(int fd, int level, int name, void *value, socklen_t *len);

/* fcntl(2): F_GETFL and F_SETFL (O_NONBLOCK), F_GETFD and F_SETFD, F_DUPFD and F_DUPFD_CLOEXEC. */
int nc_fcntl(int fd, int command, ...);

/* ioctl(2): FIONREAD, FIONBIO, TIOCOUTQ (SIOCOUTQ), SIOCATMARK, FIOCLEX and FIONCLEX. */
int nc_ioctl(int fd, unsigned long request, ...);

/* poll(2). */
int nc_poll(struct pollfd *fds, nfds_t count, int timeout);

/* epoll_create1(2). */
int nc_epoll_create1(int flags);

/* epoll_ctl(2), for sockets of ours and descriptors of the kernel. */
int nc_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event);

/* epoll_wait(2). */
int nc_epoll_wait(int epoll, struct epoll_event *events, int most, int timeout);

#ifdef __cplusplus
}
#endif

#endif
