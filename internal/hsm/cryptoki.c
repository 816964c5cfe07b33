#include <stddef.h>

#include "cryptoki.h"

enum { CKA_CLASS = 0x0, CKA_TOKEN = 0x1, CKA_PRIVATE = 0x2, CKA_LABEL = 0x3, CKA_VALUE = 0x11, CKA_KEY_TYPE = 0x100, CKA_ID = 0x102,
       CKA_SENSITIVE = 0x103, CKA_DECRYPT = 0x105, CKA_UNWRAP = 0x107, CKA_SIGN = 0x108, CKA_DERIVE = 0x10C,
       CKA_MODULUS = 0x120, CKA_PUBLIC_EXPONENT = 0x122, CKA_EC_PARAMS = 0x180, CKA_EC_POINT = 0x181, CKA_VALUE_LEN = 0x161, CKA_EXTRACTABLE = 0x162 };
enum { CKM_RSA_X_509 = 0x3, CKM_RSA_PKCS_OAEP = 0x9, CKM_RSA_PKCS_PSS = 0xD, CKM_SHA256 = 0x250, CKM_ECDH1_DERIVE = 0x1050,
       CKM_AES_GCM = 0x1087, CKM_AES_KEY_WRAP = 0x2109 };
enum { CKO_SECRET_KEY = 4, CKU_USER = 1, CKG_MGF1_SHA256 = 2, CKZ_DATA_SPECIFIED = 1 };

static octet yes = 1, no = 0;

rv keyd_login(struct functions *f, ulong session, octet *pin, ulong len)
{
	return f->login(session, CKU_USER, pin, len);
}

// Room for what describe writes, and for a value.
enum { ATTRIBUTES = 11 };

static ulong describe(struct secret *k, struct attribute *t)
{
	static ulong class = CKO_SECRET_KEY;
	ulong n = 0;
	t[n++] = (struct attribute){ CKA_CLASS, &class, sizeof class };
	t[n++] = (struct attribute){ CKA_KEY_TYPE, &k->type, sizeof k->type };
	t[n++] = (struct attribute){ CKA_TOKEN, &no, 1 };
	t[n++] = (struct attribute){ CKA_PRIVATE, &yes, 1 };
	t[n++] = (struct attribute){ CKA_SENSITIVE, k->open ? &no : &yes, 1 };
	t[n++] = (struct attribute){ CKA_EXTRACTABLE, k->open ? &yes : &no, 1 };
	if (k->decrypt)
		t[n++] = (struct attribute){ CKA_DECRYPT, &yes, 1 };
	if (k->unwrap)
		t[n++] = (struct attribute){ CKA_UNWRAP, &yes, 1 };
	if (k->derive)
		t[n++] = (struct attribute){ CKA_DERIVE, &yes, 1 };
	if (k->length)
		t[n++] = (struct attribute){ CKA_VALUE_LEN, &k->length, sizeof k->length };
	return n;
}

rv keyd_create(struct functions *f, ulong session, struct secret *k, octet *value, ulong len, ulong *object)
{
	struct attribute t[ATTRIBUTES];
	ulong n = describe(k, t);
	t[n++] = (struct attribute){ CKA_VALUE, value, len };
	return f->create_object(session, t, n, object);
}

rv keyd_read(struct functions *f, ulong session, ulong object, ulong type, octet *out, ulong *len)
{
	struct attribute t = { type, out, *len };
	rv code = f->get_attribute_value(session, object, &t, 1);
	*len = t.len;
	return code;
}

rv keyd_look(struct functions *f, ulong session, ulong object, struct look *l)
{
	struct attribute t[PARTS] = {
		[ITS_CLASS] = { CKA_CLASS, &l->class, sizeof l->class }, [ITS_KEY_TYPE] = { CKA_KEY_TYPE, &l->key_type, sizeof l->key_type },
		[MAY_DECRYPT] = { CKA_DECRYPT, &l->decrypt, 1 }, [MAY_UNWRAP] = { CKA_UNWRAP, &l->unwrap, 1 },
		[MAY_SIGN] = { CKA_SIGN, &l->sign, 1 }, [MAY_DERIVE] = { CKA_DERIVE, &l->derive, 1 },
		[ITS_ID] = { CKA_ID, l->id, sizeof l->id }, [ITS_LABEL] = { CKA_LABEL, l->label, sizeof l->label },
		[ITS_PARAMS] = { CKA_EC_PARAMS, l->params, sizeof l->params }, [ITS_POINT] = { CKA_EC_POINT, l->point, sizeof l->point },
		[ITS_MODULUS] = { CKA_MODULUS, l->modulus, sizeof l->modulus }, [ITS_EXPONENT] = { CKA_PUBLIC_EXPONENT, l->exponent, sizeof l->exponent },
	};
	rv code = f->get_attribute_value(session, object, t, PARTS);
	for (int i = 0; i < PARTS; i++)
		l->len[i] = t[i].len;
	return code;
}

rv keyd_facts(struct functions *f, ulong session, ulong object, octet *sensitive, octet *extractable, ulong *length)
{
	struct attribute t[] = { { CKA_SENSITIVE, sensitive, 1 }, { CKA_EXTRACTABLE, extractable, 1 }, { CKA_VALUE_LEN, length, sizeof *length } };
	return f->get_attribute_value(session, object, t, 3);
}

// RSA-OAEP-256 of RFC 7518 §4.3: CK_RSA_PKCS_OAEP_PARAMS.
static struct mechanism oaep256(void)
{
	static struct { ulong hash, mgf, source; void *data; ulong data_len; } params = { CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED, NULL, 0 };
	return (struct mechanism){ CKM_RSA_PKCS_OAEP, &params, sizeof params };
}

static rv decrypt(struct functions *f, ulong session, struct mechanism *m, ulong key, octet *in, ulong in_len, octet *out, ulong *out_len, enum call *at)
{
	rv code;
	*at = DECRYPT_INIT;
	if ((code = f->decrypt_init(session, m, key)))
		return code;
	*at = DECRYPT;
	return f->decrypt(session, in, in_len, out, out_len);
}

rv keyd_rsa_decrypt(struct functions *f, ulong session, int oaep, ulong key, octet *in, ulong in_len, octet *out, ulong *out_len, enum call *at)
{
	struct mechanism m = { CKM_RSA_X_509, NULL, 0 };
	if (oaep)
		m = oaep256();
	return decrypt(f, session, &m, key, in, in_len, out, out_len, at);
}

rv keyd_gcm_decrypt(struct functions *f, ulong session, ulong key, octet *iv, ulong iv_len, octet *aad, ulong aad_len,
		    octet *in, ulong in_len, octet *out, ulong *out_len, enum call *at)
{
	struct { octet *iv; ulong iv_len, iv_bits; octet *aad; ulong aad_len, tag_bits; } params = { iv, iv_len, 8 * iv_len, aad, aad_len, 128 };
	struct mechanism m = { CKM_AES_GCM, &params, sizeof params };
	// One call of C_Decrypt: NSS cannot do it in parts, and what a token gives out
	// of a part is not authenticated yet.
	return decrypt(f, session, &m, key, in, in_len, out, out_len, at);
}

rv keyd_unwrap(struct functions *f, ulong session, int oaep, ulong key, octet *in, ulong in_len, struct secret *k, ulong *object)
{
	struct attribute t[ATTRIBUTES];
	struct mechanism m = { CKM_AES_KEY_WRAP, NULL, 0 };
	if (oaep)
		m = oaep256();
	return f->unwrap_key(session, &m, key, in, in_len, t, describe(k, t), object);
}

rv keyd_agree(struct functions *f, ulong session, ulong key, ulong kdf, octet *shared, ulong shared_len, octet *point, ulong point_len,
	      struct secret *k, ulong *object)
{
	struct attribute t[ATTRIBUTES];
	struct { ulong kdf, shared_len; octet *shared; ulong point_len; octet *point; } params = { kdf, shared_len, shared, point_len, point };
	struct mechanism m = { CKM_ECDH1_DERIVE, &params, sizeof params };
	return f->derive_key(session, &m, key, t, describe(k, t), object);
}

rv keyd_derive(struct functions *f, ulong session, ulong mechanism, ulong key, octet *data, ulong data_len, struct secret *k, ulong *object)
{
	struct attribute t[ATTRIBUTES];
	struct { octet *data; ulong len; } params = { data, data_len }; // CK_KEY_DERIVATION_STRING_DATA
	struct mechanism m = { mechanism, NULL, 0 };
	if (data)
		m = (struct mechanism){ mechanism, &params, sizeof params };
	return f->derive_key(session, &m, key, t, describe(k, t), object);
}

rv keyd_digest(struct functions *f, ulong session, octet *before, ulong before_len, ulong key, octet *after, ulong after_len,
	       octet *out, ulong *out_len, enum call *at)
{
	struct mechanism m = { CKM_SHA256, NULL, 0 };
	rv code;
	*at = DIGEST_INIT;
	if ((code = f->digest_init(session, &m)))
		return code;
	*at = DIGEST_UPDATE;
	if ((code = f->digest_update(session, before, before_len)))
		return code;
	*at = DIGEST_KEY;
	if ((code = f->digest_key(session, key)))
		return code;
	*at = DIGEST_UPDATE;
	if ((code = f->digest_update(session, after, after_len)))
		return code;
	*at = DIGEST_FINAL;
	return f->digest_final(session, out, out_len);
}

rv keyd_sign(struct functions *f, ulong session, int pss, ulong key, octet *in, ulong in_len, octet *out, ulong *out_len, enum call *at)
{
	// CK_RSA_PKCS_PSS_PARAMS: PS256 of RFC 7518 §3.5, the salt as long as the hash.
	static struct { ulong hash, mgf, salt; } params = { CKM_SHA256, CKG_MGF1_SHA256, 32 };
	struct mechanism m = { CKM_RSA_X_509, NULL, 0 };
	rv code;
	if (pss)
		m = (struct mechanism){ CKM_RSA_PKCS_PSS, &params, sizeof params };
	*at = SIGN_INIT;
	if ((code = f->sign_init(session, &m, key)))
		return code;
	*at = SIGN;
	return f->sign(session, in, in_len, out, out_len);
}
