/*
 * What Node has no API for: who is at the other end of a Unix socket (SO_PEERCRED, SO_PEERPIDFD), whether that
 * process still lives (pidfd), flock(), and keeping memory out of core dumps. Node-API only, so one binary serves every Node from 20 on.
 * Every failure is thrown as an Error whose `code` is the name of the errno.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <node_api.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5; the headers may be older than the kernel */
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

static const struct {
  int number;
  const char *name;
} errno_names[] = {
    {EACCES, "EACCES"},     {EBADF, "EBADF"},       {EFAULT, "EFAULT"},         {EINTR, "EINTR"},
    {EINVAL, "EINVAL"},     {EIO, "EIO"},           {EMFILE, "EMFILE"},         {ENFILE, "ENFILE"},
    {ENODATA, "ENODATA"},   {ENODEV, "ENODEV"},     {ENOLCK, "ENOLCK"},         {ENOMEM, "ENOMEM"},
    {ENOSYS, "ENOSYS"},     {ENOTCONN, "ENOTCONN"}, {ENOTSOCK, "ENOTSOCK"},     {EOPNOTSUPP, "EOPNOTSUPP"},
    {EPERM, "EPERM"},       {ESRCH, "ESRCH"},       {ENOPROTOOPT, "ENOPROTOOPT"}};

static napi_value throw_errno(napi_env env, const char *call, int number) {
  char unknown[16];
  char message[160];
  const char *code = NULL;
  for (size_t i = 0; i < sizeof errno_names / sizeof errno_names[0]; i++) {
    if (errno_names[i].number == number) code = errno_names[i].name;
  }
  if (code == NULL) {
    snprintf(unknown, sizeof unknown, "E%d", number);
    code = unknown;
  }
  snprintf(message, sizeof message, "%s: %s: %s", call, code, strerror(number));
  napi_throw_error(env, code, message);
  return NULL;
}

/* The first argument as an integer from `min` to INT_MAX; on anything else throws and returns 0. */
static int integer_argument(napi_env env, napi_callback_info info, const char *what, int min, int *out) {
  size_t count = 1;
  napi_value argument;
  napi_valuetype type;
  double number;
  char message[96];
  if (napi_get_cb_info(env, info, &count, &argument, NULL, NULL) == napi_ok && count >= 1 &&
      napi_typeof(env, argument, &type) == napi_ok && type == napi_number &&
      napi_get_value_double(env, argument, &number) == napi_ok && number >= min && number <= INT_MAX &&
      number == (double)(int)number) {
    *out = (int)number;
    return 1;
  }
  snprintf(message, sizeof message, "%s must be an integer of at least %d", what, min);
  napi_throw_range_error(env, "EINVAL", message);
  return 0;
}

static napi_value int_value(napi_env env, int number) {
  napi_value value = NULL;
  napi_create_int32(env, number, &value);
  return value;
}

static napi_value bool_value(napi_env env, int truth) {
  napi_value value = NULL;
  napi_get_boolean(env, truth != 0, &value);
  return value;
}

static void set_number(napi_env env, napi_value object, const char *name, double number) {
  napi_value value;
  if (napi_create_double(env, number, &value) == napi_ok) napi_set_named_property(env, object, name, value);
}

static napi_value peer_credentials(napi_env env, napi_callback_info info) {
  int fd;
  struct ucred peer;
  socklen_t length = sizeof peer;
  napi_value result;
  if (!integer_argument(env, info, "fd", 0, &fd)) return NULL;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return throw_errno(env, "getsockopt SO_PEERCRED", errno);
  }
  if (length != sizeof peer) return throw_errno(env, "getsockopt SO_PEERCRED", EINVAL);
  if (napi_create_object(env, &result) != napi_ok) return NULL;
  set_number(env, result, "pid", peer.pid);
  set_number(env, result, "uid", peer.uid);
  set_number(env, result, "gid", peer.gid);
  return result;
}

/* Kernels set close-on-exec themselves today; a leaked pidfd would let a child signal the peer. */
static napi_value close_on_exec(napi_env env, int fd) {
  int flags = fcntl(fd, F_GETFD);
  if (flags == -1 || fcntl(fd, F_SETFD, flags | FD_CLOEXEC) == -1) {
    int number = errno;
    close(fd);
    return throw_errno(env, "fcntl FD_CLOEXEC", number);
  }
  return int_value(env, fd);
}

/*
 * -1 only for ENOPROTOOPT: that is how a kernel says that it does not know the option. EINVAL is how Linux 6.5 to
 * 6.15 say that the peer has died; taking it for "not supported" would send the caller to pidfd_open(), which
 * would find whoever has the PID now.
 */
static napi_value peer_pidfd(napi_env env, napi_callback_info info) {
  int fd;
  int pidfd = -1;
  socklen_t length = sizeof pidfd;
  if (!integer_argument(env, info, "fd", 0, &fd)) return NULL;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) != 0) {
    return errno == ENOPROTOOPT ? int_value(env, -1) : throw_errno(env, "getsockopt SO_PEERPIDFD", errno);
  }
  if (length != sizeof pidfd || pidfd < 0) return throw_errno(env, "getsockopt SO_PEERPIDFD", EINVAL);
  return close_on_exec(env, pidfd);
}

/* Asked on a pair of our own, so that the answer is about the kernel and not about some peer. */
static napi_value has_peer_pidfd(napi_env env, napi_callback_info info) {
  int pair[2];
  int pidfd = -1;
  socklen_t length = sizeof pidfd;
  (void)info;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return throw_errno(env, "socketpair", errno);
  int result = getsockopt(pair[0], SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length);
  close(pair[0]);
  close(pair[1]);
  if (result == 0 && pidfd >= 0) close(pidfd);
  return bool_value(env, result == 0);
}

static napi_value pidfd_open_(napi_env env, napi_callback_info info) {
  int pid;
  if (!integer_argument(env, info, "pid", 1, &pid)) return NULL;
  long pidfd = syscall(SYS_pidfd_open, pid, 0);
  if (pidfd < 0) return throw_errno(env, "pidfd_open", errno);
  return close_on_exec(env, (int)pidfd);
}

/* A pidfd becomes readable when its process has exited, reaped or not. */
static napi_value pidfd_alive(napi_env env, napi_callback_info info) {
  int fd;
  int ready;
  if (!integer_argument(env, info, "pidfd", 0, &fd)) return NULL;
  struct pollfd entry = {.fd = fd, .events = POLLIN, .revents = 0};
  do {
    ready = poll(&entry, 1, 0);
  } while (ready < 0 && errno == EINTR);
  if (ready < 0) return throw_errno(env, "poll", errno);
  if (entry.revents & POLLNVAL) return throw_errno(env, "poll", EBADF);
  return bool_value(env, ready == 0);
}

static napi_value close_fd(napi_env env, napi_callback_info info) {
  int fd;
  if (!integer_argument(env, info, "fd", 0, &fd)) return NULL;
  /* After EINTR the descriptor is gone on Linux: closing again could close another's. */
  if (close(fd) != 0 && errno != EINTR) return throw_errno(env, "close", errno);
  return NULL;
}

static napi_value lock_file(napi_env env, napi_callback_info info) {
  int fd;
  int result;
  if (!integer_argument(env, info, "fd", 0, &fd)) return NULL;
  do {
    result = flock(fd, LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno != EWOULDBLOCK) return throw_errno(env, "flock", errno);
  return bool_value(env, result == 0);
}

static napi_value forbid_core_dumps(napi_env env, napi_callback_info info) {
  const struct rlimit none = {0, 0};
  (void)info;
  if (setrlimit(RLIMIT_CORE, &none) != 0) return throw_errno(env, "setrlimit", errno);
  /* A handler of dumps that is a pipe does not look at the limit. */
  if (prctl(PR_SET_DUMPABLE, 0) != 0) return throw_errno(env, "prctl", errno);
  return NULL;
}

static napi_value init(napi_env env, napi_value exports) {
  static const struct {
    const char *name;
    napi_callback function;
  } functions[] = {{"peerCredentials", peer_credentials}, {"peerPidfd", peer_pidfd}, {"pidfdOpen", pidfd_open_},
                   {"pidfdAlive", pidfd_alive},           {"closeFd", close_fd},     {"lockFile", lock_file},
                   {"hasPeerPidfd", has_peer_pidfd},      {"forbidCoreDumps", forbid_core_dumps}};
  for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
    napi_value function;
    if (napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].function, NULL, &function) !=
            napi_ok ||
        napi_set_named_property(env, exports, functions[i].name, function) != napi_ok) {
      napi_throw_error(env, NULL, "signet.node: initialisation failed");
      return NULL;
    }
  }
  return exports;
}

NAPI_MODULE(NODE_GYP_MODULE_NAME, init)
