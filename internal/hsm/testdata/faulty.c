// A PKCS #11 module that passes everything on to another one, and fails on
// demand. The tests build it with cc; see faulty_test.go.
//
// KEYD_FAULTY_MODULE names the module behind it, KEYD_FAULTY_CONTROL a file
// that is read at every call, with one fault a line:
//
//   C_Decrypt 0x30          fails with that code and does nothing
//   C_Decrypt after 0x30    does it and then fails
//   C_Decrypt map 0x40 0x6  answers 0x6 where the module answers 0x40
//   C_Decrypt hang          waits until the line is gone
//   C_Decrypt first 2 0x30  fails twice with that code, and then no more
//   C_Login crash           takes the process with it
//   C_Decrypt segv          the same, by an access to what is not there
//   flags 0x40000           token flags that are added
//   state 0                 the state of every session
//   attribute 0x162 1       the value of a boolean attribute
//   empty 0x120             an attribute has no value
//   nosign                  a private key template with CKA_SIGN is refused
//   fragile                 after a failed C_Decrypt the session is good for nothing
//   sessions 3              that many sessions and no more
//   noflags 0x8             token flags that are taken away
//   serial 00               another serial number
//
// Every call is noted in that file's name with ".log" added.
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pkcs11go.h"

static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST ours;
static char control[4096];

// line copies the rest of the nth control line that begins with a word.
static int line(const char *word, int nth, char *rest, size_t size)
{
	char buf[256];
	size_t n = strlen(word);
	int found = 0;
	FILE *f = fopen(control, "r");
	if (!f)
		return 0;
	while (!found && fgets(buf, sizeof buf, f))
		if (!strncmp(buf, word, n) && (buf[n] == ' ' || buf[n] == '\n') && nth-- == 0) {
			snprintf(rest, size, "%s", buf[n] == ' ' ? buf + n + 1 : "");
			found = 1;
		}
	fclose(f);
	return found;
}

static void note(const char *name)
{
	char path[4200];
	snprintf(path, sizeof path, "%s.log", control);
	FILE *f = fopen(path, "a");
	if (f) {
		fprintf(f, "%s\n", name);
		fclose(f);
	}
}

// early says whether fewer than so many calls of a function were made since the
// control file was written.
static int early(const char *name, unsigned long times)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static struct { const char *name; ino_t file; unsigned long calls; } seen[64];
	struct stat st;
	int found = 0;
	if (stat(control, &st))
		return 0;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < 64; i++)
		if (!seen[i].name || !strcmp(seen[i].name, name)) {
			if (!seen[i].name || seen[i].file != st.st_ino) {
				seen[i].name = name;
				seen[i].file = st.st_ino;
				seen[i].calls = 0;
			}
			found = seen[i].calls++ < times;
			break;
		}
	pthread_mutex_unlock(&lock);
	return found;
}

// before says whether a call fails before it does anything, and how.
static int before(const char *name, CK_RV *rv)
{
	char rest[256];
	note(name);
	while (line(name, 0, rest, sizeof rest) && !strncmp(rest, "hang", 4))
		usleep(2000);
	if (line(name, 0, rest, sizeof rest) && !strncmp(rest, "crash", 5))
		kill(getpid(), SIGKILL);
	if (line(name, 0, rest, sizeof rest) && !strncmp(rest, "segv", 4))
		*(volatile int *)0 = 0;
	unsigned long times, code;
	if (line(name, 0, rest, sizeof rest) && sscanf(rest, "first %lu %lx", &times, &code) == 2 && early(name, times)) {
		*rv = code;
		return 1;
	}
	if (!line(name, 0, rest, sizeof rest) || strncmp(rest, "0x", 2))
		return 0;
	*rv = strtoul(rest, NULL, 16);
	return 1;
}

// after changes the answer of a call that was made.
static CK_RV after(const char *name, CK_RV rv)
{
	char rest[256];
	unsigned long from, to;
	if (!line(name, 0, rest, sizeof rest))
		return rv;
	if (sscanf(rest, "after %lx", &to) == 1)
		return to;
	if (sscanf(rest, "map %lx %lx", &from, &to) == 2 && rv == from)
		return to;
	return rv;
}

#define PASS(name, params, args) \
	static CK_RV my_##name params \
	{ \
		CK_RV rv; \
		return before(#name, &rv) ? rv : after(#name, real->name args); \
	}

PASS(C_Finalize, (CK_VOID_PTR p), (p))
PASS(C_GetSlotList, (CK_BBOOL b, CK_SLOT_ID_PTR l, CK_ULONG_PTR n), (b, l, n))
PASS(C_Login, (CK_SESSION_HANDLE s, CK_USER_TYPE u, CK_UTF8CHAR_PTR p, CK_ULONG n), (s, u, p, n))
PASS(C_FindObjectsInit, (CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n), (s, t, n))
PASS(C_FindObjects, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE_PTR o, CK_ULONG m, CK_ULONG_PTR n), (s, o, m, n))
PASS(C_FindObjectsFinal, (CK_SESSION_HANDLE s), (s))
PASS(C_DestroyObject, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o), (s, o))

static int sessions; // open ones
static CK_SESSION_HANDLE broken[256]; // sessions that "fragile" broke

static CK_RV my_C_DecryptInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE o)
{
	CK_RV rv;
	char rest[256];
	if (before("C_DecryptInit", &rv))
		return rv;
	if (line("fragile", 0, rest, sizeof rest) && broken[s % 256] == s)
		return CKR_OPERATION_ACTIVE;
	return after("C_DecryptInit", real->C_DecryptInit(s, m, o));
}

static CK_RV my_C_Decrypt(CK_SESSION_HANDLE s, CK_BYTE_PTR c, CK_ULONG n, CK_BYTE_PTR p, CK_ULONG_PTR m)
{
	CK_RV rv;
	if (before("C_Decrypt", &rv))
		return rv;
	rv = real->C_Decrypt(s, c, n, p, m);
	if (rv != CKR_OK)
		broken[s % 256] = s;
	return after("C_Decrypt", rv);
}

static CK_RV my_C_Initialize(CK_VOID_PTR args)
{
	CK_RV rv;
	const char *path = getenv("KEYD_FAULTY_CONTROL");
	snprintf(control, sizeof control, "%s", path ? path : "/dev/null");
	return before("C_Initialize", &rv) ? rv : after("C_Initialize", real->C_Initialize(args));
}

static CK_RV my_C_OpenSession(CK_SLOT_ID id, CK_FLAGS f, CK_VOID_PTR p, CK_NOTIFY n, CK_SESSION_HANDLE_PTR s)
{
	CK_RV rv;
	char rest[256];
	if (before("C_OpenSession", &rv))
		return rv;
	if (line("sessions", 0, rest, sizeof rest) && sessions >= atoi(rest))
		return CKR_SESSION_COUNT;
	rv = after("C_OpenSession", real->C_OpenSession(id, f, p, n, s));
	if (rv == CKR_OK)
		__atomic_add_fetch(&sessions, 1, __ATOMIC_SEQ_CST);
	return rv;
}

static CK_RV my_C_CloseSession(CK_SESSION_HANDLE s)
{
	CK_RV rv;
	if (before("C_CloseSession", &rv))
		return rv;
	__atomic_sub_fetch(&sessions, 1, __ATOMIC_SEQ_CST);
	return after("C_CloseSession", real->C_CloseSession(s));
}

static CK_RV my_C_GetTokenInfo(CK_SLOT_ID id, CK_TOKEN_INFO_PTR info)
{
	CK_RV rv;
	char rest[256];
	if (before("C_GetTokenInfo", &rv))
		return rv;
	rv = real->C_GetTokenInfo(id, info);
	if (line("flags", 0, rest, sizeof rest))
		info->flags |= strtoul(rest, NULL, 16);
	if (line("noflags", 0, rest, sizeof rest))
		info->flags &= ~strtoul(rest, NULL, 16);
	if (line("serial", 0, rest, sizeof rest))
		memcpy(info->serialNumber, rest, strcspn(rest, "\n") < 16 ? strcspn(rest, "\n") : 16);
	return after("C_GetTokenInfo", rv);
}

static CK_RV my_C_GetSessionInfo(CK_SESSION_HANDLE s, CK_SESSION_INFO_PTR info)
{
	CK_RV rv;
	char rest[256];
	if (before("C_GetSessionInfo", &rv))
		return rv;
	rv = real->C_GetSessionInfo(s, info);
	if (line("state", 0, rest, sizeof rest))
		info->state = strtoul(rest, NULL, 10);
	return after("C_GetSessionInfo", rv);
}

static CK_RV my_C_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	CK_RV rv;
	char rest[256];
	unsigned long type;
	unsigned value;
	CK_BYTE scratch[4096];
	CK_VOID_PTR kept[64] = { 0 };
	if (before("C_GetAttributeValue", &rv))
		return rv;
	for (CK_ULONG i = 0; i < n && n < 64; i++)
		for (int k = 0; line("empty", k, rest, sizeof rest); k++)
			if (sscanf(rest, "%lx", &type) == 1 && t[i].type == type && t[i].pValue) {
				kept[i] = t[i].pValue;
				t[i].pValue = scratch;
				t[i].ulValueLen = sizeof scratch;
			}
	rv = real->C_GetAttributeValue(s, o, t, n);
	for (CK_ULONG i = 0; i < n && n < 64; i++)
		if (kept[i])
			t[i].pValue = kept[i];
	for (CK_ULONG i = 0; i < n; i++) {
		for (int k = 0; line("attribute", k, rest, sizeof rest); k++)
			if (sscanf(rest, "%lx %u", &type, &value) == 2 && t[i].type == type && t[i].pValue && t[i].ulValueLen == 1)
				*(CK_BYTE *)t[i].pValue = value;
		for (int k = 0; line("empty", k, rest, sizeof rest); k++)
			if (sscanf(rest, "%lx", &type) == 1 && t[i].type == type)
				t[i].ulValueLen = 0;
	}
	return after("C_GetAttributeValue", rv);
}

static CK_RV my_C_GenerateKeyPair(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR pub, CK_ULONG npub,
				  CK_ATTRIBUTE_PTR priv, CK_ULONG npriv, CK_OBJECT_HANDLE_PTR a, CK_OBJECT_HANDLE_PTR b)
{
	CK_RV rv;
	char rest[256];
	if (before("C_GenerateKeyPair", &rv))
		return rv;
	if (line("nosign", 0, rest, sizeof rest))
		for (CK_ULONG i = 0; i < npriv; i++)
			if (priv[i].type == CKA_SIGN)
				return CKR_ATTRIBUTE_VALUE_INVALID;
	return after("C_GenerateKeyPair", real->C_GenerateKeyPair(s, m, pub, npub, priv, npriv, a, b));
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
	CK_C_GetFunctionList get;
	const char *path = getenv("KEYD_FAULTY_MODULE");
	void *module = path ? dlopen(path, RTLD_NOW) : NULL;
	if (!module || !(get = (CK_C_GetFunctionList)dlsym(module, "C_GetFunctionList")))
		return CKR_GENERAL_ERROR;
	get(&real);
	ours = *real;
#define OURS(name) ours.name = my_##name
	OURS(C_Initialize); OURS(C_Finalize); OURS(C_GetSlotList); OURS(C_GetTokenInfo);
	OURS(C_OpenSession); OURS(C_CloseSession); OURS(C_GetSessionInfo); OURS(C_Login);
	OURS(C_FindObjectsInit); OURS(C_FindObjects); OURS(C_FindObjectsFinal);
	OURS(C_GetAttributeValue); OURS(C_DestroyObject); OURS(C_GenerateKeyPair);
	OURS(C_DecryptInit); OURS(C_Decrypt);
	*list = &ours;
	return CKR_OK;
}
