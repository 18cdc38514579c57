/* Threads that are cancelled, signals and a vfork in the middle of calls that a preload library stands before. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOLDS(what) \
	do { \
		if (!(what)) { \
			fprintf(stderr, "%d: %s: %s\n", __LINE__, #what, strerror(errno)); \
			exit(1); \
		} \
	} while (0)

static int ends[2], listener, connected;
static volatile sig_atomic_t signals;

static void *receives(void *unused)
{
	char octet;
	struct iovec part = { &octet, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	recvmsg(ends[0], &message, 0);
	return unused;
}

static void *receives_one(void *unused)
{
	char octet;
	recv(ends[0], &octet, 1, 0);
	return unused;
}

static void *accepts(void *unused)
{
	accept(listener, NULL, NULL);
	return unused;
}

/* Calls of both kinds where a signal may come. */
static void on_signal(int unused)
{
	struct sockaddr_in name;
	socklen_t len = sizeof name;
	int kept = errno, kind;
	(void)unused;
	HOLDS(getpeername(connected, (struct sockaddr *)&name, &len) == 0 && len == sizeof name);
	len = sizeof kind;
	HOLDS(getsockopt(ends[0], SOL_SOCKET, SO_TYPE, &kind, &len) == 0 && kind == SOCK_STREAM);
	signals++;
	errno = kept;
}

int main(void)
{
	void *(*const waits[])(void *) = { receives, receives_one, accepts };
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof name;
	struct sigaction action = { .sa_handler = on_signal };
	struct itimerval often = { { 0, 20000 }, { 0, 20000 } };
	char octet;
	pid_t child;
	int status;

	HOLDS(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	HOLDS((listener = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
	HOLDS(bind(listener, (struct sockaddr *)&name, len) == 0 && listen(listener, 5) == 0);
	for (size_t n = 0; n < sizeof waits / sizeof *waits; n++) {
		pthread_t thread;
		void *result;
		HOLDS(pthread_create(&thread, NULL, waits[n], NULL) == 0);
		/* It is cancelled wherever it is; most often it waits by now. */
		usleep(30000);
		HOLDS(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0);
		HOLDS(result == PTHREAD_CANCELED);
	}

	HOLDS(getsockname(listener, (struct sockaddr *)&name, &len) == 0);
	HOLDS((connected = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
	HOLDS(connect(connected, (struct sockaddr *)&name, len) == 0);
	HOLDS((status = accept(listener, NULL, NULL)) >= 0);
	/* Names are cut as the kernel cuts them. */
	len = 4;
	HOLDS(getpeername(connected, (struct sockaddr *)&name, &len) == 0 && len == sizeof name);
	HOLDS(getpeername(connected, NULL, &len) == -1 && errno == EFAULT);
	len = -1;
	HOLDS(getpeername(connected, (struct sockaddr *)&name, &len) == -1 && errno == EINVAL);
	HOLDS(getpeername(-1, (struct sockaddr *)&name, &len) == -1 && errno == EBADF);
	HOLDS(getpeername(0, (struct sockaddr *)&name, &len) == -1 && errno == ENOTSOCK);

	HOLDS(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
	HOLDS(accept(listener, NULL, NULL) == -1 && errno == EINTR);
	HOLDS(recv(ends[0], &octet, 1, 0) == -1 && errno == EINTR);
	while (signals < 10)
		HOLDS(recv(connected, &octet, 1, 0) == -1 && errno == EINTR);
	often = (struct itimerval){ { 0, 0 }, { 0, 0 } };
	HOLDS(setitimer(ITIMER_REAL, &often, NULL) == 0);

	/* Its memory is this process's. */
	child = vfork();
	if (child == 0) {
		len = sizeof name;
		_exit(getpeername(connected, (struct sockaddr *)&name, &len) == 0 ? 7 : 1);
	}
	HOLDS(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7);
	puts("held");
	return 0;
}
