// The numbers that faulty.c gives sessions and objects where it is to "renumber"
// them: PKCS #11 says what they are good for, and not that one is used only once.
static pthread_mutex_t numbering = PTHREAD_MUTEX_INITIALIZER;
static int renumbers; // "renumber" was asked for
static CK_SESSION_HANDLE opened[256]; // what is behind the numbers of sessions; 0: free
static struct numbered {
	CK_OBJECT_HANDLE real; // 0: whoever had the number has lost it
	CK_OBJECT_CLASS class;
	char label[256];
} numbered[1024]; // what is behind the numbers of keys of the token
static int most_opened = 1, most_numbered = 1;

enum { OF_SESSION = 1 << 30 }; // is in the numbers of all other objects

// as is the session behind a number.
static CK_SESSION_HANDLE as(CK_SESSION_HANDLE s)
{
	return !renumbers ? s : s < 256 ? opened[s] : 0;
}

static CK_SESSION_HANDLE number_session(CK_SESSION_HANDLE real)
{
	if (!renumbers)
		return real;
	pthread_mutex_lock(&numbering);
	int n = most_opened - 1;
	while (n > 0 && opened[n])
		n--;
	if (n == 0)
		n = most_opened++; // a test has a dozen
	opened[n] = real;
	pthread_mutex_unlock(&numbering);
	return n;
}

// behind is the object behind a number.
static CK_OBJECT_HANDLE behind(CK_OBJECT_HANDLE o)
{
	return !renumbers ? o : o & OF_SESSION ? o & ~(CK_OBJECT_HANDLE)OF_SESSION : o < 1024 ? numbered[o].real : 0;
}

// number gives an object its number: the one it has, or that of another key of its
// class that has lost it, or a new one.
static void number(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE_PTR o)
{
	struct numbered it = { .real = *o };
	CK_BBOOL lasts = 0;
	CK_ATTRIBUTE t[] = { { CKA_CLASS, &it.class, sizeof it.class }, { CKA_TOKEN, &lasts, 1 }, { CKA_LABEL, it.label, sizeof it.label - 1 } };
	if (!renumbers)
		return;
	real->C_GetAttributeValue(as(s), *o, t, 3);
	if (!lasts) {
		*o |= OF_SESSION;
		return;
	}
	pthread_mutex_lock(&numbering);
	int n = 1;
	while (n < most_numbered && numbered[n].real != it.real)
		n++;
	for (int k = 1; n == most_numbered && k < most_numbered; k++)
		if (!numbered[k].real && numbered[k].class == it.class && strcmp(numbered[k].label, it.label))
			n = k;
	if (n == most_numbered)
		most_numbered++; // a test has a dozen
	numbered[n] = it;
	*o = n;
	pthread_mutex_unlock(&numbering);
}

// forget_numbers is for a logout, which takes the object handles, and for the loss
// of every session.
static void forget_numbers(int sessions_too)
{
	pthread_mutex_lock(&numbering);
	for (int n = 0; n < most_numbered; n++)
		numbered[n].real = 0;
	if (sessions_too)
		memset(opened, 0, sizeof opened);
	pthread_mutex_unlock(&numbering);
}
