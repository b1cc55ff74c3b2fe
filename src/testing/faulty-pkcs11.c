/*
 * A PKCS#11 module for tests: another one (FAULTY_PKCS11_MODULE), with the faults that files in a directory
 * (FAULTY_PKCS11_DIR) order. A file FUNCTION.WHAT.ANY counts for one call of the function and is removed by it; one
 * that ends in .always stays. WHAT is a number (the call returns it), or
 *   hang, crash, slow (it takes two seconds)
 *   flip            a bit of the signature is turned over
 *   final-try       the token says that one more wrong PIN locks it
 *   made-but-lost   the pair of keys is made, and the call fails
 *   close-all       all sessions are closed before C_SignInit does its work
 * Each call is noted in the file "calls".
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "pkcs11.h"

static CK_FUNCTION_LIST ours;
static CK_FUNCTION_LIST_PTR real;

static void note(const char *dir, const char *function) {
  char path[4096], line[128];
  snprintf(path, sizeof path, "%s/calls", dir);
  int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (fd < 0) return;
  int length = snprintf(line, sizeof line, "%s\n", function);
  if (write(fd, line, length) != length) abort();
  close(fd);
}

/* Takes the order for this call, if there is one: what is to happen, in `what`. */
static int take_order(const char *function, char *what, size_t size) {
  const char *dir = getenv("FAULTY_PKCS11_DIR");
  note(dir, function);
  DIR *orders = opendir(dir);
  if (orders == NULL) return 0;
  size_t length = strlen(function);
  int taken = 0;
  for (struct dirent *entry; !taken && (entry = readdir(orders)) != NULL;) {
    const char *name = entry->d_name;
    if (strncmp(name, function, length) != 0 || name[length] != '.') continue;
    const char *end = strchr(name + length + 1, '.');
    if (end == NULL) continue;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    /* Of several threads only one succeeds in removing it. */
    if (strcmp(end, ".always") != 0 && unlink(path) != 0) continue;
    snprintf(what, size, "%.*s", (int)(end - name - length - 1), name + length + 1);
    taken = 1;
  }
  closedir(orders);
  return taken;
}

#define ORDERED(function)                                          \
  char what[64] = "";                                              \
  if (take_order(#function, what, sizeof what)) {                  \
    if (strcmp(what, "hang") == 0) for (;;) pause();               \
    if (strcmp(what, "crash") == 0) abort();                       \
    if (strcmp(what, "slow") == 0) sleep(2);                       \
    if (what[0] >= '0' && what[0] <= '9') return strtoul(what, NULL, 10); \
  }

static CK_RV C_Initialize_(CK_VOID_PTR args) {
  ORDERED(C_Initialize)
  return real->C_Initialize(args);
}
static CK_RV C_OpenSession_(CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR app, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR session) {
  ORDERED(C_OpenSession)
  return real->C_OpenSession(slot, flags, app, notify, session);
}
static CK_RV C_Login_(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG length) {
  ORDERED(C_Login)
  return real->C_Login(session, user, pin, length);
}
static CK_RV C_GetSessionInfo_(CK_SESSION_HANDLE session, CK_SESSION_INFO_PTR info) {
  ORDERED(C_GetSessionInfo)
  return real->C_GetSessionInfo(session, info);
}
static CK_RV C_GetTokenInfo_(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info) {
  ORDERED(C_GetTokenInfo)
  CK_RV rv = real->C_GetTokenInfo(slot, info);
  if (strcmp(what, "final-try") == 0) info->flags |= CKF_USER_PIN_FINAL_TRY;
  return rv;
}
static CK_RV C_GenerateKeyPair_(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_ATTRIBUTE_PTR pub, CK_ULONG pubs,
                                CK_ATTRIBUTE_PTR priv, CK_ULONG privs, CK_OBJECT_HANDLE_PTR a, CK_OBJECT_HANDLE_PTR b) {
  ORDERED(C_GenerateKeyPair)
  CK_RV rv = real->C_GenerateKeyPair(session, mechanism, pub, pubs, priv, privs, a, b);
  /* The pair is there, and its maker does not get to know. */
  return strcmp(what, "made-but-lost") == 0 ? CKR_DEVICE_ERROR : rv;
}
static CK_RV C_DestroyObject_(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object) {
  ORDERED(C_DestroyObject)
  return real->C_DestroyObject(session, object);
}
static CK_RV C_SignInit_(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key) {
  ORDERED(C_SignInit)
  if (strcmp(what, "close-all") == 0) {
    CK_SESSION_INFO info;
    if (real->C_GetSessionInfo(session, &info) == CKR_OK) real->C_CloseAllSessions(info.slotID);
  }
  return real->C_SignInit(session, mechanism, key);
}
static CK_RV C_Sign_(CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG length, CK_BYTE_PTR out, CK_ULONG_PTR size) {
  ORDERED(C_Sign)
  CK_RV rv = real->C_Sign(session, data, length, out, size);
  if (rv == CKR_OK && strcmp(what, "flip") == 0) out[*size - 1] ^= 1;
  return rv;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list) {
  if (real == NULL) {
    void *library = dlopen(getenv("FAULTY_PKCS11_MODULE"), RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return CKR_GENERAL_ERROR;
    CK_C_GetFunctionList get = (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList");
    if (get == NULL || get(&real) != CKR_OK) return CKR_GENERAL_ERROR;
    ours = *real;
    ours.C_GetFunctionList = C_GetFunctionList;
    ours.C_Initialize = C_Initialize_;
    ours.C_OpenSession = C_OpenSession_;
    ours.C_Login = C_Login_;
    ours.C_GetSessionInfo = C_GetSessionInfo_;
    ours.C_GetTokenInfo = C_GetTokenInfo_;
    ours.C_GenerateKeyPair = C_GenerateKeyPair_;
    ours.C_DestroyObject = C_DestroyObject_;
    ours.C_SignInit = C_SignInit_;
    ours.C_Sign = C_Sign_;
  }
  *list = &ours;
  return CKR_OK;
}
