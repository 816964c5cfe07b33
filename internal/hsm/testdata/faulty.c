// A PKCS #11 module that passes everything on to another one, and fails on
// demand. The tests build it with cc; see package faultytest.
//
// KEYD_FAULTY_MODULE names the module behind it, KEYD_FAULTY_CONTROL a file
// that is read at every call, with one fault a line:
//
//   C_Decrypt 0x30          fails with that code and does nothing
//   C_Decrypt after 0x30    does it and then fails
//   C_Decrypt map 0x40 0x6  answers 0x6 where the module answers 0x40
//   C_Decrypt hang          waits until the line is gone
//   C_Decrypt first 2 0x30  fails twice with that code, and then no more
//   C_Decrypt only 2 hang   the second call waits until the line is gone
//   C_Login crash           takes the process with it
//   C_Decrypt segv          the same, by an access to what is not there
//   flags 0x40000           token flags that are added
//   state 0                 the state of every session
//   attribute 0x162 1       the value of a boolean attribute
//   secret 0x162 1          the same, of secret keys only
//   empty 0x120             an attribute has no value
//   untold 0x120            an attribute that an object does not tell
//   silent 0x105            an attribute that is refused and left as it was, length and all
//   many 0x150              more than six attributes at once are refused with that code
//   nosign                  a private key template with CKA_SIGN is refused
//   fragile                 after a failed C_Decrypt the session is good for nothing
//   lose 1000000            every C_Decrypt loses that many bytes
//   sessions 3              that many sessions and no more
//   twins                   sessions that are opened at once get one number
//   noflags 0x8             token flags that are taken away
//   serial 00               another serial number
//   mechanism 0xd           a mechanism that it does not have
//   der                     a point must be in a DER OCTET STRING (ECDH1)
//   sized                   a shared secret needs CKA_VALUE_LEN
//   short                   a secret's value is told without zeros in front
//   exclusive               a private key is for one thing only
//   sp800                   has CKD_SHA256_KDF_SP800 (of PKCS #11 v3.0), made of what
//                           the module behind has
//   loose                   keys that are made can be taken out, whatever they are to be
//   leak 4096               a C_Decrypt that fails loses that many bytes
//   wrong                   what comes out of C_Decrypt is not right
//   stall 1000              a key takes that many milliseconds more to be made, and
//                           C_Decrypt waits for it
//   renumber                (when it is initialised) numbers of sessions are given out
//                           again, the highest that is free first; after a logout a key
//                           of the token gets the object handle of another one
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

// earlier counts the calls of a function since the control file was written.
static unsigned long earlier(const char *name)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static struct { const char *name; struct timespec written; ino_t file; unsigned long calls; } seen[64];
	struct stat st;
	unsigned long calls = 0;
	if (stat(control, &st))
		return 0;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < 64; i++)
		if (!seen[i].name || !strcmp(seen[i].name, name)) {
			if (!seen[i].name || seen[i].file != st.st_ino || // which comes again
			    memcmp(&seen[i].written, &st.st_mtim, sizeof st.st_mtim)) {
				seen[i].name = name;
				seen[i].file = st.st_ino;
				seen[i].written = st.st_mtim;
				seen[i].calls = 0;
			}
			calls = seen[i].calls++;
			break;
		}
	pthread_mutex_unlock(&lock);
	return calls;
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
	if (line(name, 0, rest, sizeof rest) && sscanf(rest, "first %lu %lx", &times, &code) == 2 && earlier(name) < times) {
		*rv = code;
		return 1;
	}
	if (line(name, 0, rest, sizeof rest) && sscanf(rest, "only %lu hang", &times) == 1 && earlier(name) == times - 1)
		while (line(name, 0, rest, sizeof rest) && !strncmp(rest, "only", 4))
			usleep(2000);
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

#include "numbers.h"

#define PASS(name, params, args) \
	static CK_RV my_##name params \
	{ \
		CK_RV rv; \
		return before(#name, &rv) ? rv : after(#name, real->name args); \
	}

PASS(C_Finalize, (CK_VOID_PTR p), (p))
PASS(C_GetSlotList, (CK_BBOOL b, CK_SLOT_ID_PTR l, CK_ULONG_PTR n), (b, l, n))
PASS(C_Login, (CK_SESSION_HANDLE s, CK_USER_TYPE u, CK_UTF8CHAR_PTR p, CK_ULONG n), (as(s), u, p, n))
PASS(C_FindObjectsInit, (CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n), (as(s), t, n))
PASS(C_FindObjectsFinal, (CK_SESSION_HANDLE s), (as(s)))
PASS(C_DestroyObject, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o), (as(s), behind(o)))
PASS(C_DigestInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m), (as(s), m))
PASS(C_DigestUpdate, (CK_SESSION_HANDLE s, CK_BYTE_PTR p, CK_ULONG n), (as(s), p, n))

static CK_RV my_C_Logout(CK_SESSION_HANDLE s)
{
	CK_RV rv;
	if (before("C_Logout", &rv))
		return rv;
	forget_numbers(0);
	return after("C_Logout", real->C_Logout(as(s)));
}

static CK_RV my_C_CloseAllSessions(CK_SLOT_ID id)
{
	CK_RV rv;
	if (before("C_CloseAllSessions", &rv))
		return rv;
	forget_numbers(1);
	return after("C_CloseAllSessions", real->C_CloseAllSessions(id));
}

static CK_RV my_C_FindObjects(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE_PTR o, CK_ULONG m, CK_ULONG_PTR n)
{
	CK_RV rv;
	if (before("C_FindObjects", &rv))
		return rv;
	rv = real->C_FindObjects(as(s), o, m, n);
	for (CK_ULONG i = 0; rv == CKR_OK && i < *n; i++)
		number(s, &o[i]);
	return after("C_FindObjects", rv);
}

// made gives an object that a call has made its number.
static CK_RV made(const char *name, CK_RV rv, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE_PTR o)
{
	if (rv == CKR_OK)
		number(s, o);
	return after(name, rv);
}

static CK_RV my_C_GenerateKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o)
{
	CK_RV rv;
	return before("C_GenerateKey", &rv) ? rv : made("C_GenerateKey", real->C_GenerateKey(as(s), m, t, n, o), s, o);
}

static int sessions; // open ones
static CK_SESSION_HANDLE broken[256]; // sessions that "fragile" broke

// loosen returns a template that lets the key out, if it is to be so.
static CK_ATTRIBUTE_PTR loosen(CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE room[64])
{
	static CK_BBOOL yes = 1, no = 0;
	char rest[256];
	if (n > 64 || !line("loose", 0, rest, sizeof rest))
		return t;
	memcpy(room, t, n * sizeof *t);
	for (CK_ULONG i = 0; i < n; i++)
		if (t[i].type == CKA_SENSITIVE)
			room[i].pValue = &no;
		else if (t[i].type == CKA_EXTRACTABLE)
			room[i].pValue = &yes;
	return room;
}

static CK_RV my_C_CreateObject(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o)
{
	CK_RV rv;
	CK_ATTRIBUTE room[64];
	return before("C_CreateObject", &rv) ? rv : made("C_CreateObject", real->C_CreateObject(as(s), loosen(t, n, room), n, o), s, o);
}

static pthread_mutex_t stalling = PTHREAD_MUTEX_INITIALIZER;

// stall holds decrypts up for as long as it is not given a lock back.
static unsigned long stall(void)
{
	char rest[256];
	if (!line("stall", 0, rest, sizeof rest))
		return 0;
	pthread_mutex_lock(&stalling);
	return strtoul(rest, NULL, 10);
}

PASS(C_DigestKey, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o), (as(s), behind(o)))
PASS(C_DigestFinal, (CK_SESSION_HANDLE s, CK_BYTE_PTR p, CK_ULONG_PTR n), (as(s), p, n))
PASS(C_Sign, (CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR p, CK_ULONG_PTR m), (as(s), d, n, p, m))

// lacks says whether the module does not have a mechanism.
static int lacks(CK_MECHANISM_PTR m)
{
	char rest[256];
	for (int k = 0; line("mechanism", k, rest, sizeof rest); k++)
		if (strtoul(rest, NULL, 16) == m->mechanism)
			return 1;
	return 0;
}

static CK_RV my_C_SignInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE o)
{
	CK_RV rv;
	if (before("C_SignInit", &rv))
		return rv;
	return lacks(m) ? CKR_MECHANISM_INVALID : after("C_SignInit", real->C_SignInit(as(s), m, behind(o)));
}

static CK_RV my_C_UnwrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k, CK_BYTE_PTR w, CK_ULONG n,
			    CK_ATTRIBUTE_PTR t, CK_ULONG nt, CK_OBJECT_HANDLE_PTR o)
{
	CK_RV rv;
	if (before("C_UnwrapKey", &rv))
		return rv;
	CK_ATTRIBUTE room[64];
	return lacks(m) ? CKR_MECHANISM_INVALID : made("C_UnwrapKey", real->C_UnwrapKey(as(s), m, behind(k), w, n, loosen(t, nt, room), nt, o), s, o);
}

// sp800 is what PKCS #11 v3.0 §2.3.17 says of CKD_SHA256_KDF_SP800, for one round:
// SHA-256 of a counter, Z and the shared data.
static CK_RV sp800(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k, CK_ATTRIBUTE_PTR t, CK_ULONG nt, CK_OBJECT_HANDLE_PTR o)
{
	CK_ECDH1_DERIVE_PARAMS agree = *(CK_ECDH1_DERIVE_PARAMS *)m->pParameter;
	CK_BYTE counter[] = { 0, 0, 0, 1 };
	CK_KEY_DERIVATION_STRING_DATA first = { counter, sizeof counter }, last = { agree.pSharedData, agree.ulSharedDataLen };
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_KEY_TYPE type = CKK_GENERIC_SECRET;
	CK_BBOOL yes = 1, no = 0;
	CK_ATTRIBUTE secret[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type }, { CKA_TOKEN, &no, 1 },
				  { CKA_SENSITIVE, &yes, 1 }, { CKA_EXTRACTABLE, &no, 1 }, { CKA_DERIVE, &yes, 1 } };
	CK_MECHANISM steps[] = { { CKM_ECDH1_DERIVE, &agree, sizeof agree }, { CKM_CONCATENATE_DATA_AND_BASE, &first, sizeof first },
				 { CKM_CONCATENATE_BASE_AND_DATA, &last, sizeof last }, { CKM_SHA256_KEY_DERIVATION, NULL, 0 } };
	CK_RV rv = CKR_OK;
	agree.kdf = CKD_NULL;
	agree.pSharedData = NULL;
	agree.ulSharedDataLen = 0;
	for (int i = 0; i < 4 && rv == CKR_OK; i++) {
		CK_OBJECT_HANDLE base = i ? *o : k;
		rv = real->C_DeriveKey(s, &steps[i], base, i == 3 ? t : secret, i == 3 ? nt : 6, o);
		if (i)
			real->C_DestroyObject(s, base);
	}
	return rv;
}

static CK_RV my_C_DeriveKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k, CK_ATTRIBUTE_PTR t, CK_ULONG nt, CK_OBJECT_HANDLE_PTR o)
{
	CK_RV rv;
	CK_ECDH1_DERIVE_PARAMS *p = m->mechanism == CKM_ECDH1_DERIVE ? m->pParameter : NULL;
	char rest[256];
	int length = 0;
	if (before("C_DeriveKey", &rv))
		return rv;
	if (lacks(m))
		return CKR_MECHANISM_INVALID;
	for (CK_ULONG i = 0; i < nt; i++)
		length |= t[i].type == CKA_VALUE_LEN;
	if (p && line("sized", 0, rest, sizeof rest) && !length)
		return CKR_TEMPLATE_INCOMPLETE;
	if (p && line("der", 0, rest, sizeof rest) && (p->ulPublicDataLen == 65 || p->ulPublicDataLen == 97 || p->ulPublicDataLen == 133))
		return CKR_MECHANISM_PARAM_INVALID;
	if (p && p->kdf == 0x10 && line("sp800", 0, rest, sizeof rest))
		return made("C_DeriveKey", sp800(as(s), m, behind(k), t, nt, o), s, o);
	CK_ATTRIBUTE room[64];
	return made("C_DeriveKey", real->C_DeriveKey(as(s), m, behind(k), loosen(t, nt, room), nt, o), s, o);
}

static CK_RV my_C_DecryptInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE o)
{
	CK_RV rv;
	char rest[256];
	if (before("C_DecryptInit", &rv))
		return rv;
	if (lacks(m))
		return CKR_MECHANISM_INVALID;
	if (line("fragile", 0, rest, sizeof rest) && broken[s % 256] == s)
		return CKR_OPERATION_ACTIVE;
	return after("C_DecryptInit", real->C_DecryptInit(as(s), m, behind(o)));
}

static CK_RV my_C_Decrypt(CK_SESSION_HANDLE s, CK_BYTE_PTR c, CK_ULONG n, CK_BYTE_PTR p, CK_ULONG_PTR m)
{
	CK_RV rv;
	char rest[256];
	if (renumbers) {
		snprintf(rest, sizeof rest, "C_Decrypt@%lu", s);
		note(rest);
	}
	if (before("C_Decrypt", &rv))
		return rv;
	if (stall())
		pthread_mutex_unlock(&stalling);
	if (line("lose", 0, rest, sizeof rest)) {
		void *volatile lost = malloc(atol(rest));
		if (lost)
			memset(lost, 1, atol(rest));
	}
	rv = real->C_Decrypt(as(s), c, n, p, m);
	if (rv != CKR_OK) {
		broken[s % 256] = s;
		if (line("leak", 0, rest, sizeof rest)) {
			size_t size = strtoul(rest, NULL, 10);
			void *volatile lost = malloc(size);
			if (lost)
				memset(lost, 1, size);
		}
	} else if (p && *m > 0 && line("wrong", 0, rest, sizeof rest))
		p[*m - 1] ^= 1;
	return after("C_Decrypt", rv);
}

static CK_RV my_C_Initialize(CK_VOID_PTR args)
{
	CK_RV rv;
	char rest[256];
	const char *path = getenv("KEYD_FAULTY_CONTROL");
	if (!*control) // others may read it, and a second user of the library comes by here too
		snprintf(control, sizeof control, "%s", path ? path : "/dev/null");
	if (before("C_Initialize", &rv))
		return rv;
	rv = real->C_Initialize(args);
	if (rv == CKR_OK) {
		forget_numbers(1);
		renumbers = line("renumber", 0, rest, sizeof rest);
	}
	return after("C_Initialize", rv);
}

static CK_RV my_C_OpenSession(CK_SLOT_ID id, CK_FLAGS f, CK_VOID_PTR p, CK_NOTIFY n, CK_SESSION_HANDLE_PTR s)
{
	CK_RV rv;
	char rest[256];
	if (before("C_OpenSession", &rv))
		return rv;
	if (line("sessions", 0, rest, sizeof rest) && sessions >= atoi(rest))
		return CKR_SESSION_COUNT;
	int twins = line("twins", 0, rest, sizeof rest), others = 0;
	static int opening;
	static CK_SESSION_HANDLE first;
	if (twins) {
		others = __atomic_fetch_add(&opening, 1, __ATOMIC_SEQ_CST);
		usleep(others ? 40000 : 20000); // the one that came first is done first
	}
	rv = after("C_OpenSession", real->C_OpenSession(id, f, p, n, s));
	if (rv == CKR_OK) {
		__atomic_add_fetch(&sessions, 1, __ATOMIC_SEQ_CST);
		*s = number_session(*s);
		if (twins && others)
			*s = first;
		else if (twins)
			first = *s;
	}
	if (twins)
		__atomic_sub_fetch(&opening, 1, __ATOMIC_SEQ_CST);
	return rv;
}

static CK_RV my_C_CloseSession(CK_SESSION_HANDLE s)
{
	CK_RV rv;
	if (before("C_CloseSession", &rv))
		return rv;
	__atomic_sub_fetch(&sessions, 1, __ATOMIC_SEQ_CST);
	rv = real->C_CloseSession(as(s));
	if (renumbers && s < 256)
		opened[s] = 0;
	return after("C_CloseSession", rv);
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
	rv = real->C_GetSessionInfo(as(s), info);
	if (line("state", 0, rest, sizeof rest))
		info->state = strtoul(rest, NULL, 10);
	return after("C_GetSessionInfo", rv);
}

static int is_secret(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	CK_OBJECT_CLASS class = 0;
	CK_ATTRIBUTE t = { CKA_CLASS, &class, sizeof class };
	return real->C_GetAttributeValue(s, o, &t, 1) == CKR_OK && class == CKO_SECRET_KEY;
}

static CK_RV my_C_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	CK_RV rv;
	char rest[256];
	unsigned long type;
	unsigned value;
	CK_BYTE scratch[4096];
	CK_VOID_PTR kept[64] = { 0 };
	CK_ULONG silent[64] = { 0 };
	if (before("C_GetAttributeValue", &rv))
		return rv;
	s = as(s);
	o = behind(o);
	if (n > 6 && line("many", 0, rest, sizeof rest))
		return strtoul(rest, NULL, 16);
	for (CK_ULONG i = 0; i < n && i < 64; i++)
		for (int k = 0; line("empty", k, rest, sizeof rest); k++)
			if (sscanf(rest, "%lx", &type) == 1 && t[i].type == type && t[i].pValue) {
				kept[i] = t[i].pValue;
				t[i].pValue = scratch;
				t[i].ulValueLen = sizeof scratch;
			}
	for (CK_ULONG i = 0; i < n && i < 64; i++)
		for (int k = 0; line("silent", k, rest, sizeof rest); k++)
			if (sscanf(rest, "%lx", &type) == 1 && t[i].type == type && t[i].pValue) {
				kept[i] = t[i].pValue;
				silent[i] = t[i].ulValueLen;
				t[i].pValue = scratch;
			}
	rv = real->C_GetAttributeValue(s, o, t, n);
	for (CK_ULONG i = 0; i < n && i < 64; i++) {
		if (kept[i])
			t[i].pValue = kept[i];
		if (silent[i]) {
			t[i].ulValueLen = silent[i];
			rv = CKR_ATTRIBUTE_TYPE_INVALID;
		}
	}
	for (CK_ULONG i = 0; i < n; i++) {
		for (int k = 0; line("attribute", k, rest, sizeof rest); k++)
			if (sscanf(rest, "%lx %u", &type, &value) == 2 && t[i].type == type && t[i].pValue && t[i].ulValueLen == 1)
				*(CK_BYTE *)t[i].pValue = value;
		for (int k = 0; line("secret", k, rest, sizeof rest) && is_secret(s, o); k++)
			if (sscanf(rest, "%lx %u", &type, &value) == 2 && t[i].type == type && t[i].pValue && t[i].ulValueLen == 1)
				*(CK_BYTE *)t[i].pValue = value;
		for (int k = 0; line("empty", k, rest, sizeof rest); k++)
			if (sscanf(rest, "%lx", &type) == 1 && t[i].type == type)
				t[i].ulValueLen = 0;
		for (int k = 0; line("untold", k, rest, sizeof rest); k++)
			if (sscanf(rest, "%lx", &type) == 1 && t[i].type == type) {
				t[i].ulValueLen = CK_UNAVAILABLE_INFORMATION;
				rv = CKR_ATTRIBUTE_TYPE_INVALID;
			}
		CK_BYTE *value = t[i].pValue;
		if (t[i].type == CKA_VALUE && rv == CKR_OK && value && line("short", 0, rest, sizeof rest))
			while (t[i].ulValueLen > 0 && !value[0])
				memmove(value, value + 1, --t[i].ulValueLen);
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
	if (line("exclusive", 0, rest, sizeof rest)) {
		int uses = 0;
		for (CK_ULONG i = 0; i < npriv; i++)
			if (priv[i].type == CKA_SIGN || priv[i].type == CKA_DECRYPT || priv[i].type == CKA_UNWRAP)
				uses += *(CK_BBOOL *)priv[i].pValue;
		if (uses > 1)
			return CKR_TEMPLATE_INCONSISTENT;
	}
	CK_ATTRIBUTE room[64];
	unsigned long held = stall();
	usleep(held * 1000);
	rv = real->C_GenerateKeyPair(as(s), m, pub, npub, loosen(priv, npriv, room), npriv, a, b);
	if (rv == CKR_OK) {
		number(s, a);
		number(s, b);
	}
	if (held)
		pthread_mutex_unlock(&stalling);
	return after("C_GenerateKeyPair", rv);
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
	OURS(C_DecryptInit); OURS(C_Decrypt); OURS(C_CreateObject); OURS(C_DigestKey); OURS(C_DigestFinal);
	OURS(C_SignInit); OURS(C_Sign); OURS(C_UnwrapKey); OURS(C_DeriveKey); OURS(C_GenerateKey);
	OURS(C_DigestInit); OURS(C_DigestUpdate); OURS(C_Logout); OURS(C_CloseAllSessions);
	*list = &ours;
	return CKR_OK;
}
