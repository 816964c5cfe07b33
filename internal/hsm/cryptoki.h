// The calls that carry secrets: PKCS #11 v2.40 as far as keyd needs it, with
// nothing allocated and nothing kept. See calls.go.
#ifndef KEYD_CRYPTOKI_H
#define KEYD_CRYPTOKI_H

typedef unsigned long rv, ulong;
typedef unsigned char octet;

struct attribute {
	ulong type;
	void *value;
	ulong len;
};

struct mechanism {
	ulong type;
	void *params;
	ulong len;
};

// functions is the function list as far as C_DeriveKey: version, then the
// functions in the order of §5.1 (pkcs11f.h), which no later version changes.
struct functions {
	struct { octet major, minor; } version;
	void *initialize, *finalize, *get_info, *get_function_list;
	void *get_slot_list, *get_slot_info, *get_token_info, *get_mechanism_list, *get_mechanism_info;
	void *init_token, *init_pin, *set_pin;
	void *open_session, *close_session, *close_all_sessions, *get_session_info;
	void *get_operation_state, *set_operation_state;
	rv (*login)(ulong session, ulong user, octet *pin, ulong pin_len);
	void *logout;
	rv (*create_object)(ulong session, struct attribute *t, ulong n, ulong *object);
	void *copy_object, *destroy_object, *get_object_size;
	rv (*get_attribute_value)(ulong session, ulong object, struct attribute *t, ulong n);
	void *set_attribute_value;
	void *find_objects_init, *find_objects, *find_objects_final;
	void *encrypt_init, *encrypt, *encrypt_update, *encrypt_final;
	rv (*decrypt_init)(ulong session, struct mechanism *m, ulong key);
	rv (*decrypt)(ulong session, octet *in, ulong in_len, octet *out, ulong *out_len);
	void *decrypt_update, *decrypt_final;
	rv (*digest_init)(ulong session, struct mechanism *m);
	void *digest;
	rv (*digest_update)(ulong session, octet *in, ulong in_len);
	rv (*digest_key)(ulong session, ulong key);
	rv (*digest_final)(ulong session, octet *out, ulong *out_len);
	rv (*sign_init)(ulong session, struct mechanism *m, ulong key);
	rv (*sign)(ulong session, octet *in, ulong in_len, octet *out, ulong *out_len);
	void *sign_update, *sign_final, *sign_recover_init, *sign_recover;
	void *verify_init, *verify, *verify_update, *verify_final, *verify_recover_init, *verify_recover;
	void *digest_encrypt_update, *decrypt_digest_update, *sign_encrypt_update, *decrypt_verify_update;
	void *generate_key, *generate_key_pair, *wrap_key;
	rv (*unwrap_key)(ulong session, struct mechanism *m, ulong key, octet *in, ulong in_len, struct attribute *t, ulong n, ulong *object);
	rv (*derive_key)(ulong session, struct mechanism *m, ulong key, struct attribute *t, ulong n, ulong *object);
};

// secret describes a secret key that lives no longer than its session.
struct secret {
	ulong type;   // CKK_AES or CKK_GENERIC_SECRET
	ulong length; // in octets; 0 leaves CKA_VALUE_LEN out
	octet open;   // not sensitive and extractable, to be read out
	octet decrypt, unwrap, derive; // what it may be used for
};

// look is what names a key object, what it may be used for, and its public half,
// read in one call. The room is a little more than any can have, so that what
// fills it was not told. len is what the token said of each part. See look.go.
enum part { ITS_CLASS, ITS_KEY_TYPE, MAY_DECRYPT, MAY_UNWRAP, MAY_SIGN, MAY_DERIVE, ITS_ID, ITS_LABEL, ITS_PARAMS, ITS_POINT, ITS_MODULUS, ITS_EXPONENT, PARTS };
struct look {
	ulong len[PARTS];
	ulong class, key_type;
	octet decrypt, unwrap, sign, derive;
	octet id[131], label[517], params[37], point[149], modulus[1033], exponent[37];
};

// call says which of several calls failed.
enum call { DECRYPT_INIT, DECRYPT, DIGEST_INIT, DIGEST_UPDATE, DIGEST_KEY, DIGEST_FINAL, SIGN_INIT, SIGN };

rv keyd_login(struct functions *f, ulong session, octet *pin, ulong len);
rv keyd_create(struct functions *f, ulong session, struct secret *k, octet *value, ulong len, ulong *object);
rv keyd_read(struct functions *f, ulong session, ulong object, ulong type, octet *out, ulong *len);
rv keyd_look(struct functions *f, ulong session, ulong object, struct look *l);
rv keyd_facts(struct functions *f, ulong session, ulong object, octet *sensitive, octet *extractable, ulong *length);
rv keyd_rsa_decrypt(struct functions *f, ulong session, int oaep, ulong key, octet *in, ulong in_len, octet *out, ulong *out_len, enum call *at);
rv keyd_gcm_decrypt(struct functions *f, ulong session, ulong key, octet *iv, ulong iv_len, octet *aad, ulong aad_len,
		    octet *in, ulong in_len, octet *out, ulong *out_len, enum call *at);
rv keyd_unwrap(struct functions *f, ulong session, int oaep, ulong key, octet *in, ulong in_len, struct secret *k, ulong *object);
rv keyd_agree(struct functions *f, ulong session, ulong key, ulong kdf, octet *shared, ulong shared_len, octet *point, ulong point_len,
	      struct secret *k, ulong *object);
rv keyd_derive(struct functions *f, ulong session, ulong mechanism, ulong key, octet *data, ulong data_len, struct secret *k, ulong *object);
rv keyd_digest(struct functions *f, ulong session, octet *before, ulong before_len, ulong key, octet *after, ulong after_len,
	       octet *out, ulong *out_len, enum call *at);
rv keyd_sign(struct functions *f, ulong session, int pss, ulong key, octet *in, ulong in_len, octet *out, ulong *out_len, enum call *at);

#endif
