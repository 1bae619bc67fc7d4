/**
 * ECDSA verification on secp256k1, for x86-64 with BMI2 and ADX; compiled at start by the TinyCC inside Bun.
 *
 * TinyCC does not optimise and has no 128-bit numbers, so everything that multiplies is assembler, and C only says in
 * which order. Nothing here is secret: keys, digests and signatures are public, so time may depend on them, and does.
 * Not for signing.
 *
 * Shapes. A number is four 64-bit words, the lowest first. A field element is any number that is right modulo the prime
 * p = 2^256 − 0x1000003d1; it may be p or more until `field_normalize`. A scalar is a number below the order n. A point
 * is X, Y, Z for the affine (X/Z², Y/Z³); the point at infinity has no form here, whoever adds keeps a flag for it.
 *
 * A verification wants u1·G + u2·Q, where u1 = digest/s and u2 = r/s modulo n:
 *   - each factor is split in two of 128 bits by the endomorphism (x, y) → (β·x, y), which multiplies by λ;
 *   - all are written in digits of a sliding window (wNAF), each digit an addition of an odd multiple out of a table;
 *   - a key that came before has tables of 2^32·Q, 2^64·Q and 2^96·Q in the pool, as the generator always has, so that
 *     the parts are four of 32 bits, and 32 doublings do instead of 128.
 *
 * What outlives a call is all in `struct state`, which the caller brings; the rest of the memory is for one call at a
 * time, of one thread.
 *
 * Sources: SEC 1, 2.3.4 and 4.1.4; SEC 2, 2.4.1; Gallant, Lambert, Vanstone, "Faster Point Multiplication on Elliptic
 * Curves with Efficient Endomorphisms"; Bernstein, Yang, "Fast constant-time gcd computation and modular inversion";
 * Meloni, "New Point Addition Formulae for ECC Applications" (two points that share Z); the Explicit-Formulas Database
 * for a = 0; Montgomery, "Modular Multiplication Without Trial Division"; Intel's manual for the encodings.
 */

#include "../compiled/assembler.h"

/* --- instructions that TinyCC's assembler does not know --------------------------------------------------------- */

#define MULX_(mode, from, low, high) \
  ".byte 0xc4, " TEXT(0x42 | (~NUMBER(high) >> 3 & 1) << 7 | (~NUMBER(from) >> 3 & 1) << 5) ", " \
  TEXT(0x83 | (~NUMBER(low) & 15) << 3) ", 0xf6, " TEXT(mode | (NUMBER(high) & 7) << 3 | (NUMBER(from) & 7)) "\n"
/** high:low = rdx · from, without touching the flags */
#define MULX(from, low, high) MULX_(0xc0, from, low, high)
/** high:low = rdx · the word at that offset of `base`, which is neither rsp nor r12 */
#define MULX_AT(offset, base, low, high) MULX_(0x40, base, low, high) ".byte " TEXT(offset) "\n"

#define ADX(prefix, from, to) \
  ".byte " TEXT(prefix) ", " TEXT(0x48 | (NUMBER(to) >> 3) << 2 | NUMBER(from) >> 3) ", 0x0f, 0x38, 0xf6, " \
  TEXT(0xc0 | (NUMBER(to) & 7) << 3 | (NUMBER(from) & 7)) "\n"
/** to += from + carry; carry is the C flag of the one and the O flag of the other, so that two sums run side by side */
#define ADCX(from, to) ADX(0x66, from, to)
#define ADOX(from, to) ADX(0xf3, from, to)

/** to = the zeros below the lowest one of `from`: a prefix makes tzcnt of bsf */
#define TRAILING_ZEROS(from, to) ".byte 0xf3\nbsfq %" #from ", %" #to "\n"

/* --- words ------------------------------------------------------------------------------------------------------ */

#define SAVE "pushq %rbx\npushq %rbp\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
#define RESTORE "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbp\npopq %rbx\n"

/** r8…r11 = the number at that offset of `base`, and back */
#define LOAD(offset, base) \
  "movq " #offset "(%" #base "), %r8\n" \
  "movq " #offset "+8(%" #base "), %r9\n" \
  "movq " #offset "+16(%" #base "), %r10\n" \
  "movq " #offset "+24(%" #base "), %r11\n"
#define STORE(offset, base) \
  "movq %r8, " #offset "(%" #base ")\n" \
  "movq %r9, " #offset "+8(%" #base ")\n" \
  "movq %r10, " #offset "+16(%" #base ")\n" \
  "movq %r11, " #offset "+24(%" #base ")\n"
/** an instruction for the lowest words of r8…r11 and of that number, another for the rest */
#define WITH(lowest, rest, offset, base) \
  lowest " " #offset "(%" #base "), %r8\n" \
  rest " " #offset "+8(%" #base "), %r9\n" \
  rest " " #offset "+16(%" #base "), %r10\n" \
  rest " " #offset "+24(%" #base "), %r11\n"
#define CARRY_ON(instruction) \
  instruction " $0, %r9\n" \
  instruction " $0, %r10\n" \
  instruction " $0, %r11\n"

#define MULTIPLY_ROW(offset, c0, c1, c2, c3, c4) \
  "movq " #offset "(%rbx), %rdx\n" \
  "xorl %eax, %eax\n" \
  MULX_AT(0, rsi, rax, rcx) ADCX(rax, c0) ADOX(rcx, c1) \
  MULX_AT(8, rsi, rax, rcx) ADCX(rax, c1) ADOX(rcx, c2) \
  MULX_AT(16, rsi, rax, rcx) ADCX(rax, c2) ADOX(rcx, c3) \
  MULX_AT(24, rsi, rax, c4) ADCX(rax, c3) \
  "movl $0, %eax\n" ADOX(rax, c4) ADCX(rax, c4)
/** r8…r15 = (rsi) · (rbx); uses rax, rcx, rdx */
#define MULTIPLY \
  "movq (%rbx), %rdx\n" \
  MULX_AT(0, rsi, r8, r9) \
  MULX_AT(8, rsi, rax, r10) "addq %rax, %r9\n" \
  MULX_AT(16, rsi, rax, r11) "adcq %rax, %r10\n" \
  MULX_AT(24, rsi, rax, r12) "adcq %rax, %r11\n" \
  "adcq $0, %r12\n" \
  MULTIPLY_ROW(8, r9, r10, r11, r12, r13) \
  MULTIPLY_ROW(16, r10, r11, r12, r13, r14) \
  MULTIPLY_ROW(24, r11, r12, r13, r14, r15)

/** r8…r15 = (rsi)²: the mixed products once and doubled; uses rax, rcx, rdx */
#define SQUARE \
  "movq (%rsi), %rdx\n" \
  MULX_AT(8, rsi, r9, r10) \
  MULX_AT(16, rsi, rax, r11) "addq %rax, %r10\n" \
  MULX_AT(24, rsi, rax, r12) "adcq %rax, %r11\n" \
  "adcq $0, %r12\n" \
  "movq 8(%rsi), %rdx\n" \
  "xorl %eax, %eax\n" \
  MULX_AT(16, rsi, rax, rcx) ADCX(rax, r11) ADOX(rcx, r12) \
  MULX_AT(24, rsi, rax, r13) ADCX(rax, r12) \
  "movl $0, %eax\n" ADOX(rax, r13) ADCX(rax, r13) \
  "movq 16(%rsi), %rdx\n" \
  MULX_AT(24, rsi, rax, r14) "addq %rax, %r13\n" \
  "adcq $0, %r14\n" \
  "movq (%rsi), %rdx\n" \
  "xorl %r15d, %r15d\n" \
  MULX(rdx, r8, rcx) ADOX(r9, r9) ADCX(rcx, r9) \
  "movq 8(%rsi), %rdx\n" \
  MULX(rdx, rax, rcx) ADOX(r10, r10) ADCX(rax, r10) ADOX(r11, r11) ADCX(rcx, r11) \
  "movq 16(%rsi), %rdx\n" \
  MULX(rdx, rax, rcx) ADOX(r12, r12) ADCX(rax, r12) ADOX(r13, r13) ADCX(rcx, r13) \
  "movq 24(%rsi), %rdx\n" \
  MULX(rdx, rax, rcx) ADOX(r14, r14) ADCX(rax, r14) ADOX(r15, r15) ADCX(rcx, r15)

/** to = a · b, of eight words */
void multiply_wide(u64 *to, u64 *a, u64 *b);
asm(FUNCTION(multiply_wide)
  SAVE
  "movq %rdx, %rbx\n"
  MULTIPLY
  STORE(0, rdi)
  "movq %r12, 32(%rdi)\n"
  "movq %r13, 40(%rdi)\n"
  "movq %r14, 48(%rdi)\n"
  "movq %r15, 56(%rdi)\n"
  RESTORE
  "ret\n");

/** to = a − b modulo 2^256. Returns 1 when b was larger, else 0. */
int number_subtract(u64 *to, u64 *a, u64 *b);
asm(FUNCTION(number_subtract)
  LOAD(0, rsi)
  WITH("subq", "sbbq", 0, rdx)
  STORE(0, rdi)
  "sbbl %eax, %eax\n"
  "negl %eax\n"
  "ret\n");

/** Reads 32 bytes, the highest first. */
void number_read(u64 *to, unsigned char *bytes);
asm(FUNCTION(number_read)
  "movq 24(%rsi), %r8\n"
  "movq 16(%rsi), %r9\n"
  "movq 8(%rsi), %r10\n"
  "movq (%rsi), %r11\n"
  "bswapq %r8\n"
  "bswapq %r9\n"
  "bswapq %r10\n"
  "bswapq %r11\n"
  STORE(0, rdi)
  "ret\n");

/** Whether the processor has tzcnt (BMI1), mulx (BMI2), adcx and adox (ADX): leaf 7 of cpuid. */
int is_supported(void);
asm(FUNCTION(is_supported)
  "pushq %rbx\n"
  "xorl %eax, %eax\n"
  "cpuid\n"
  "movl %eax, %ecx\n"
  "xorl %eax, %eax\n"
  "cmpl $7, %ecx\n"
  "jb 1f\n"
  "movl $7, %eax\n"
  "xorl %ecx, %ecx\n"
  "cpuid\n"
  "xorl %eax, %eax\n"
  "andl $0x80108, %ebx\n"
  "cmpl $0x80108, %ebx\n"
  "jne 1f\n"
  "movl $1, %eax\n"
  "1:\n"
  "popq %rbx\n"
  "ret\n");

int is_zero(u64 *a) { return (a[0] | a[1] | a[2] | a[3]) == 0; }

int is_below(u64 *a, u64 *b) {
  u64 difference[4];
  return number_subtract(difference, a, b);
}

void copy(u64 *to, u64 *from) {
  to[0] = from[0];
  to[1] = from[1];
  to[2] = from[2];
  to[3] = from[3];
}

/* --- the field -------------------------------------------------------------------------------------------------- */

u64 prime[4] = {0xfffffffefffffc2f, 0xffffffffffffffff, 0xffffffffffffffff, 0xffffffffffffffff};
u64 zero[4] = {0, 0, 0, 0};
u64 one[4] = {1, 0, 0, 0};
u64 seven[4] = {7, 0, 0, 0};

/**
 * (rdi), r8…r11 = r8…r15 modulo p, and returns: 2^256 is 0x1000003d1, so the upper half times that goes on the lower,
 * then what that pushed out above. A carry after that leaves a low number, whose own fold ends at the second word.
 */
#define REDUCE \
  "movq $0x1000003d1, %rdx\n" \
  "xorl %eax, %eax\n" \
  MULX(r12, rax, rcx) ADCX(rax, r8) ADOX(rcx, r9) \
  MULX(r13, rax, rcx) ADCX(rax, r9) ADOX(rcx, r10) \
  MULX(r14, rax, rcx) ADCX(rax, r10) ADOX(rcx, r11) \
  MULX(r15, rax, r12) ADCX(rax, r11) \
  "movl $0, %eax\n" ADOX(rax, r12) ADCX(rax, r12) \
  MULX(r12, rax, rcx) \
  "addq %rax, %r8\n" \
  "adcq %rcx, %r9\n" \
  "adcq $0, %r10\n" \
  "adcq $0, %r11\n" \
  "jc 2f\n" \
  "1:\n" \
  STORE(0, rdi) \
  "ret\n" \
  "2:\n" \
  "addq %rdx, %r8\n" \
  "adcq $0, %r9\n" \
  "jmp 1b\n"

/** r8…r11 ± the field element at that offset of `base`; uses rax, rdx. After a second fold the lowest word has room. */
#define FOLD(lowest, rest) \
  "movq $0x1000003d1, %rdx\n" \
  "sbbq %rax, %rax\n" \
  "andq %rdx, %rax\n" \
  lowest " %rax, %r8\n" \
  CARRY_ON(rest) \
  "jnc 1f\n" \
  lowest " %rdx, %r8\n" \
  "1:\n"
#define ADD(offset, base) WITH("addq", "adcq", offset, base) FOLD("addq", "adcq")
#define SUBTRACT(offset, base) WITH("subq", "sbbq", offset, base) FOLD("subq", "sbbq")

/** r8…r11 / 2: an odd number takes p first, which is 2^256 (bit 0 of rcx) less 0x1000003d1; uses rax, rcx */
#define HALVE \
  "movq $0x1000003d1, %rax\n" \
  "movq %r8, %rcx\n" \
  "andl $1, %ecx\n" \
  "negq %rcx\n" \
  "andq %rcx, %rax\n" \
  "subq %rax, %r8\n" \
  CARRY_ON("sbbq") \
  "adcq $0, %rcx\n" \
  "shrdq $1, %r9, %r8\n" \
  "shrdq $1, %r10, %r9\n" \
  "shrdq $1, %r11, %r10\n" \
  "shrdq $1, %rcx, %r11\n"

/** r8…r11 negated where rcx is all ones, as it is where rcx is 0: −a is ~a − 0x1000003d0; uses rcx, rdx */
#define NEGATE_IF \
  "xorq %rcx, %r8\n" \
  "xorq %rcx, %r9\n" \
  "xorq %rcx, %r10\n" \
  "xorq %rcx, %r11\n" \
  "movq $0x1000003d0, %rdx\n" \
  "andq %rdx, %rcx\n" \
  "subq %rcx, %r8\n" \
  CARRY_ON("sbbq") \
  "jnc 1f\n" \
  "subq %rdx, %r8\n" \
  "decq %r8\n" \
  "1:\n"

/** Jumps to `label` unless r8…r11 is 0 or p, which differ in what the first test sees from all but few; uses rax */
#define UNLESS_ZERO(label) \
  "cmpq %r10, %r11\n" \
  "jne " label "\n" \
  "movq %r8, %rax\n" \
  "orq %r9, %rax\n" \
  "orq %r10, %rax\n" \
  "jz 1f\n" \
  "movq %r9, %rax\n" \
  "andq %r10, %rax\n" \
  "cmpq $-1, %rax\n" \
  "jne " label "\n" \
  "movq $0x1000003d1, %rax\n" \
  "addq %r8, %rax\n" \
  "jnz " label "\n" \
  "1:\n"

/** (rdi), r8…r11 = (rsi) · (rbx), and (rsi)². They keep only rdi, rsi, rbx, rbp, and write when all is read. */
asm(FUNCTION(multiply_here) MULTIPLY REDUCE);
asm(FUNCTION(square_here) SQUARE REDUCE);

/** Of field elements; `to` may be one of the others. */
void field_multiply(u64 *to, u64 *a, u64 *b);
void field_square(u64 *to, u64 *a);
void field_add(u64 *to, u64 *a, u64 *b);
void field_subtract(u64 *to, u64 *a, u64 *b);
void field_halve(u64 *to, u64 *a);
/** to = negative ? −a : a, where `negative` is all ones or 0 */
void field_negate_if(u64 *to, u64 *a, u64 negative);
/** Whether it is 0 modulo p. */
int field_is_zero(u64 *a);
asm(FUNCTION(field_multiply) SAVE "movq %rdx, %rbx\ncall multiply_here\n" RESTORE "ret\n");
asm(FUNCTION(field_square) SAVE "call square_here\n" RESTORE "ret\n");
asm(FUNCTION(field_add) "movq %rdx, %rcx\n" LOAD(0, rsi) ADD(0, rcx) STORE(0, rdi) "ret\n");
asm(FUNCTION(field_subtract) "movq %rdx, %rcx\n" LOAD(0, rsi) SUBTRACT(0, rcx) STORE(0, rdi) "ret\n");
asm(FUNCTION(field_halve) LOAD(0, rsi) HALVE STORE(0, rdi) "ret\n");
asm(FUNCTION(field_negate_if) "movq %rdx, %rcx\n" LOAD(0, rsi) NEGATE_IF STORE(0, rdi) "ret\n");
asm(FUNCTION(field_is_zero) LOAD(0, rdi) UNLESS_ZERO("2f") "movl $1, %eax\nret\n2:\nxorl %eax, %eax\nret\n");

/** Makes it less than p. */
void field_normalize(u64 *a) {
  u64 less[4];
  if (!number_subtract(less, a, prime)) copy(a, less);
}

/** to = a^(2^times) · b, where `to` may be one of them */
void raise(u64 *to, u64 *a, int times, u64 *b) {
  u64 power[4];
  copy(power, a);
  while (times--) field_square(power, power);
  field_multiply(to, power, b);
}

/**
 * to = a^((p+1)/4), which is a root of `a` if it has any. The exponent is, in bits: 223 ones, 0, 22 ones, 0000, 11, 00;
 * `ones` of a number is the power whose exponent is that many ones.
 */
void field_root(u64 *to, u64 *a) {
  u64 ones2[4], ones3[4], ones22[4], ones44[4], ones[4];
  raise(ones2, a, 1, a);
  raise(ones3, ones2, 1, a);
  raise(ones, ones3, 3, ones3);
  raise(ones, ones, 3, ones3);
  raise(ones, ones, 2, ones2);
  raise(ones22, ones, 11, ones);
  raise(ones44, ones22, 22, ones22);
  raise(ones, ones44, 44, ones44);
  raise(ones, ones, 88, ones);
  raise(ones, ones, 44, ones44);
  raise(ones, ones, 3, ones3);
  raise(ones, ones, 23, ones22);
  raise(ones, ones, 6, ones2);
  raise(to, ones, 2, one);
}

/* --- scalars ---------------------------------------------------------------------------------------------------- */

u64 order[4] = {0xbfd25e8cd0364141, 0xbaaedce6af48a03b, 0xfffffffffffffffe, 0xffffffffffffffff};
u64 half_order[4] = {0xdfe92f46681b20a0, 0x5d576e7357a4501d, 0xffffffffffffffff, 0x7fffffffffffffff};
/** p − n */
u64 prime_over_order[4] = {0x402da1722fc9baee, 0x4551231950b75fc4, 1, 0};
/** 2^256 modulo n */
u64 montgomery_one[4] = {0x402da1732fc9bebf, 0x4551231950b75fc4, 1, 0};

/** Adds that multiple of n (rsi) whose lowest word is that of −c0, with rbx = −1/n modulo 2^64; uses rax, rcx, rdx */
#define MONTGOMERY_STEP(c0, c1, c2, c3, c4, carry_on) \
  "movq %" #c0 ", %rdx\n" \
  "imulq %rbx, %rdx\n" \
  "xorl %eax, %eax\n" \
  MULX_AT(0, rsi, rax, rcx) ADCX(rax, c0) ADOX(rcx, c1) \
  MULX_AT(8, rsi, rax, rcx) ADCX(rax, c1) ADOX(rcx, c2) \
  MULX_AT(16, rsi, rax, rcx) ADCX(rax, c2) ADOX(rcx, c3) \
  MULX_AT(24, rsi, rax, rcx) ADCX(rax, c3) ADOX(rcx, c4) \
  "movl $0, %eax\n" ADCX(rax, c4) carry_on
#define CARRY_TO(c) ADOX(rax, c) ADCX(rax, c)

/** to = a · b / 2^256 modulo n, below n, for a scalar and any number */
void scalar_multiply(u64 *to, u64 *a, u64 *b);
asm(FUNCTION(scalar_multiply)
  SAVE
  "movq %rdx, %rbx\n"
  MULTIPLY
  "leaq order(%rip), %rsi\n"
  "movq $0x4b0dff665588b13f, %rbx\n"
  "xorl %ebp, %ebp\n"
  MONTGOMERY_STEP(r8, r9, r10, r11, r12, CARRY_TO(r13) CARRY_TO(r14) CARRY_TO(r15) CARRY_TO(rbp))
  MONTGOMERY_STEP(r9, r10, r11, r12, r13, CARRY_TO(r14) CARRY_TO(r15) CARRY_TO(rbp))
  MONTGOMERY_STEP(r10, r11, r12, r13, r14, CARRY_TO(r15) CARRY_TO(rbp))
  MONTGOMERY_STEP(r11, r12, r13, r14, r15, CARRY_TO(rbp))
  "movq %r12, %r8\n"
  "movq %r13, %r9\n"
  "movq %r14, %r10\n"
  "movq %r15, %r11\n"
  WITH("subq", "sbbq", 0, rsi)
  "sbbq $0, %rbp\n"
  "cmovcq %r12, %r8\n"
  "cmovcq %r13, %r9\n"
  "cmovcq %r14, %r10\n"
  "cmovcq %r15, %r11\n"
  STORE(0, rdi)
  RESTORE
  "ret\n");

/* --- inversion, for both moduli --------------------------------------------------------------------------------- */

/** A number in five limbs of 62 bits, the lowest first; the last one has the sign, the others are not negative. */
#define LIMBS 5
#define LIMB_BITS 62
#define LIMB_MASK 0x3fffffffffffffff

struct modulus {
  i64 limbs[LIMBS];
  /** −1/modulus modulo 2^64 */
  u64 negative_inverse;
  u64 *number;
};

struct modulus modulo_order = {
  {0x3fd25e8cd0364141, 0x2abb739abd2280ee, 0x3fffffffffffffeb, 0x3fffffffffffffff, 0xff}, 0x4b0dff665588b13f, order};
struct modulus modulo_prime = {
  {0x3ffffffefffffc2f, 0x3fffffffffffffff, 0x3fffffffffffffff, 0x3fffffffffffffff, 0xff}, 0xd838091dd2253531, prime};

/**
 * 62 division steps on the lowest 64 bits of f and g. Writes the matrix u, v, q, r with 2^62·(f', g') = (u·f + v·g,
 * q·f + r·g); returns the new delta.
 *
 * A run of even g is a shift. An odd g takes that multiple of f which clears as many of its bits as steps are left, at
 * most six, before delta turns positive: a division step adds f when g is odd, and so does the sum of them. f·(2 − f²)
 * is 1/f modulo 2^6.
 */
i64 divide_steps(i64 delta, u64 f, u64 g, i64 *matrix);
asm(FUNCTION(divide_steps)
  SAVE
  "movq %rdi, %r14\n"
  "movq %rsi, %r8\n"
  "movq %rdx, %r9\n"
  "movq %rcx, %rdi\n"
  "movl $1, %r10d\n"
  "xorl %r11d, %r11d\n"
  "xorl %r12d, %r12d\n"
  "movl $1, %r13d\n"
  "movl $62, %r15d\n"
  "1:\n"
  "movq %r9, %rax\n"
  "btsq %r15, %rax\n"
  TRAILING_ZEROS(rax, rcx)
  "sarq %cl, %r9\n"
  "shlq %cl, %r10\n"
  "shlq %cl, %r11\n"
  "addq %rcx, %r14\n"
  "subq %rcx, %r15\n"
  "jz 3f\n"
  "testq %r14, %r14\n"
  "jle 2f\n"
  /* (f, g) becomes (g, −f), and the rows of the matrix with them. */
  "negq %r14\n"
  "movq %r8, %rax\n"
  "movq %r9, %r8\n"
  "negq %rax\n"
  "movq %rax, %r9\n"
  "movq %r10, %rax\n"
  "movq %r12, %r10\n"
  "negq %rax\n"
  "movq %rax, %r12\n"
  "movq %r11, %rax\n"
  "movq %r13, %r11\n"
  "negq %rax\n"
  "movq %rax, %r13\n"
  "2:\n"
  /* rcx = min(1 − delta, steps left, 6); rdx = −g/f modulo 2^rcx */
  "movl $1, %eax\n"
  "subq %r14, %rax\n"
  "movl $6, %ecx\n"
  "cmpq %r15, %rax\n"
  "cmovgq %r15, %rax\n"
  "cmpq %rcx, %rax\n"
  "cmovlq %rax, %rcx\n"
  "movq $-1, %rax\n"
  "shlq %cl, %rax\n"
  "notq %rax\n"
  "movq %r8, %rdx\n"
  "imulq %rdx, %rdx\n"
  "subq $2, %rdx\n"
  "imulq %r8, %rdx\n"
  "imulq %r9, %rdx\n"
  "andq %rax, %rdx\n"
  "movq %r8, %rax\n"
  "imulq %rdx, %rax\n"
  "addq %rax, %r9\n"
  "movq %r10, %rax\n"
  "imulq %rdx, %rax\n"
  "addq %rax, %r12\n"
  "imulq %r11, %rdx\n"
  "addq %rdx, %r13\n"
  "jmp 1b\n"
  "3:\n"
  "movq %r10, (%rdi)\n"
  "movq %r11, 8(%rdi)\n"
  "movq %r12, 16(%rdi)\n"
  "movq %r13, 24(%rdi)\n"
  "movq %r14, %rax\n"
  RESTORE
  "ret\n");

#define APPLY_START \
  "movq (%rdx), %r12\n" \
  "movq 8(%rdx), %r13\n" \
  "movq 16(%rdx), %r14\n" \
  "movq 24(%rdx), %r15\n" \
  "movq %rcx, %rbx\n" \
  "movq $0x3fffffffffffffff, %rbp\n" \
  "xorl %r8d, %r8d\n" \
  "xorl %r9d, %r9d\n" \
  "xorl %r10d, %r10d\n" \
  "xorl %r11d, %r11d\n"
#define ACCUMULATE(factor, low, high) \
  "movq %rcx, %rax\n" \
  "imulq " factor "\n" \
  "addq %rax, %" #low "\n" \
  "adcq %rdx, %" #high "\n"
/** r9:r8 += u·a + v·b and r11:r10 += q·a + r·b, for the limbs at that offset of a (rdi) and b (rsi) */
#define APPLY(offset) \
  "movq " #offset "(%rdi), %rcx\n" \
  ACCUMULATE("%r12", r8, r9) ACCUMULATE("%r14", r10, r11) \
  "movq " #offset "(%rsi), %rcx\n" \
  ACCUMULATE("%r13", r8, r9) ACCUMULATE("%r15", r10, r11)
/** the same with the multiples of the modulus (rbx) that lie on the stack */
#define APPLY_MODULUS(offset) \
  "movq " #offset "(%rbx), %rcx\n" \
  ACCUMULATE("(%rsp)", r8, r9) ACCUMULATE("8(%rsp)", r10, r11)
#define NEXT_LIMB \
  "shrdq $62, %r9, %r8\n" \
  "sarq $62, %r9\n" \
  "shrdq $62, %r11, %r10\n" \
  "sarq $62, %r11\n"
#define WRITE_LIMB(offset) \
  "movq %r8, %rax\n" \
  "andq %rbp, %rax\n" \
  "movq %rax, " #offset "(%rdi)\n" \
  "movq %r10, %rax\n" \
  "andq %rbp, %rax\n" \
  "movq %rax, " #offset "(%rsi)\n"
#define WRITE_LAST_LIMB \
  "movq %r8, 32(%rdi)\n" \
  "movq %r10, 32(%rsi)\n"
/** the multiple, from −2^61 to 2^61, of the modulus that makes 62 zeros of the end of `low` */
#define MULTIPLE_TO_CLEAR(low, to) \
  "movq %" #low ", %rax\n" \
  "imulq 40(%rbx), %rax\n" \
  "shlq $2, %rax\n" \
  "sarq $2, %rax\n" \
  "movq %rax, " to "\n"

/** (f, g) = matrix · (f, g) / 2^62, which has no rest */
void apply(i64 *f, i64 *g, i64 *matrix);
asm(FUNCTION(apply)
  SAVE
  APPLY_START
  APPLY(0) NEXT_LIMB
  APPLY(8) WRITE_LIMB(0) NEXT_LIMB
  APPLY(16) WRITE_LIMB(8) NEXT_LIMB
  APPLY(24) WRITE_LIMB(16) NEXT_LIMB
  APPLY(32) WRITE_LIMB(24) NEXT_LIMB
  WRITE_LAST_LIMB
  RESTORE
  "ret\n");

/** The same modulo the modulus. As |u| + |v| and |q| + |r| are ≤ 2^62, d and e grow by half the modulus at most. */
void apply_modulo(i64 *d, i64 *e, i64 *matrix, struct modulus *modulus);
asm(FUNCTION(apply_modulo)
  SAVE
  "subq $16, %rsp\n"
  APPLY_START
  APPLY(0)
  MULTIPLE_TO_CLEAR(r8, "(%rsp)")
  MULTIPLE_TO_CLEAR(r10, "8(%rsp)")
  APPLY_MODULUS(0) NEXT_LIMB
  APPLY(8) APPLY_MODULUS(8) WRITE_LIMB(0) NEXT_LIMB
  APPLY(16) APPLY_MODULUS(16) WRITE_LIMB(8) NEXT_LIMB
  APPLY(24) APPLY_MODULUS(24) WRITE_LIMB(16) NEXT_LIMB
  APPLY(32) APPLY_MODULUS(32) WRITE_LIMB(24) NEXT_LIMB
  WRITE_LAST_LIMB
  "addq $16, %rsp\n"
  RESTORE
  "ret\n");

void to_limbs(i64 *limbs, u64 *a) {
  limbs[0] = a[0] & LIMB_MASK;
  limbs[1] = (a[0] >> 62 | a[1] << 2) & LIMB_MASK;
  limbs[2] = (a[1] >> 60 | a[2] << 4) & LIMB_MASK;
  limbs[3] = (a[2] >> 58 | a[3] << 6) & LIMB_MASK;
  limbs[4] = a[3] >> 56;
}

/** Of limbs from 0 to 2^256 − 1. */
void from_limbs(u64 *to, i64 *limbs) {
  to[0] = limbs[0] | (u64)limbs[1] << 62;
  to[1] = (u64)limbs[1] >> 2 | (u64)limbs[2] << 60;
  to[2] = (u64)limbs[2] >> 4 | (u64)limbs[3] << 58;
  to[3] = (u64)limbs[3] >> 6 | (u64)limbs[4] << 56;
}

/** a = sign·a + times·b, where both are −1, 0 or 1 */
void limbs_combine(i64 *a, i64 sign, i64 *b, i64 times) {
  i64 sum = 0;
  int at;
  for (at = 0; at < LIMBS - 1; at++) {
    sum += sign * a[at] + times * b[at];
    a[at] = sum & LIMB_MASK;
    sum >>= LIMB_BITS;
  }
  a[at] = sum + sign * a[at] + times * b[at];
}

/**
 * to = factor / a modulo the modulus and below it, for numbers below it; 0 for 0. Throughout, d·a = f·factor and
 * e·a = g·factor modulo the modulus; in the end g is 0 and f is 1 or −1.
 */
void invert(u64 *to, u64 *a, u64 *factor, struct modulus *modulus) {
  i64 f[LIMBS], g[LIMBS], d[LIMBS], e[LIMBS], matrix[4], delta = 1;
  u64 number[4];
  int at;
  for (at = 0; at < LIMBS; at++) {
    f[at] = modulus->limbs[at];
    d[at] = 0;
  }
  to_limbs(g, a);
  to_limbs(e, factor);
  while (g[0] | g[1] | g[2] | g[3] | g[4]) {
    delta = divide_steps(delta, f[0] | (u64)f[1] << LIMB_BITS, g[0] | (u64)g[1] << LIMB_BITS, matrix);
    apply(f, g, matrix);
    apply_modulo(d, e, matrix, modulus);
  }
  if (f[LIMBS - 1] < 0) limbs_combine(d, -1, modulus->limbs, 0);
  /* What lies above 2^256, or below 0, is a few times the modulus at most. */
  while (d[LIMBS - 1] >> 8) limbs_combine(d, 1, modulus->limbs, d[LIMBS - 1] < 0 ? 1 : -1);
  from_limbs(number, d);
  if (number_subtract(to, number, modulus->number)) copy(to, number);
}

/** to = 1/a, below p, for a < p */
void field_invert(u64 *to, u64 *a) { invert(to, a, one, &modulo_prime); }

/** to = 2^256/a modulo n, as `scalar_multiply` wants it, for a scalar */
void scalar_invert(u64 *to, u64 *a) { invert(to, a, montgomery_one, &modulo_order); }

/* --- the endomorphism ------------------------------------------------------------------------------------------- */

/** The cube root of 1 in the field that belongs to λ, a cube root of 1 modulo n. */
u64 beta[4] = {0xc1396c28719501ee, 0x9cf0497512f58995, 0x6e64479eac3434e9, 0x7ae96a2b657c0710};

/**
 * Short vectors (a1, −b1) and (a2, a1) of the lattice of all (i, j) with i + j·λ = 0 modulo n, and 2^384·a1/n and
 * 2^384·b1/n, rounded.
 */
u64 lattice_a1[4] = {0xe86c90e49284eb15, 0x3086d221a7d46bcd, 0, 0};
u64 lattice_b1[4] = {0x6f547fa90abfe4c3, 0xe4437ed6010e8828, 0, 0};
u64 lattice_a2[4] = {0x57c1108d9d44cfd8, 0x14ca50f7a8e2f3f6, 1, 0};
u64 lattice_a1_over_order[4] = {0xe893209a45dbb031, 0x3daa8a1471e8ca7f, 0xe86c90e49284eb15, 0x3086d221a7d46bcd};
u64 lattice_b1_over_order[4] = {0x1571b4ae8ac47f71, 0x221208ac9df506c6, 0x6f547fa90abfe4c4, 0xe4437ed6010e8828};

struct half {
  u64 low, high;
  /** all ones or 0 */
  u64 negative;
};

/** Of a number modulo 2^256 that is less than 2^128 away from 0. */
void half_of(struct half *half, u64 *number) {
  u64 magnitude[4];
  half->negative = 0;
  if (number[3] >> 63) {
    half->negative = -1;
    number_subtract(magnitude, zero, number);
    number = magnitude;
  }
  half->low = number[0];
  half->high = number[1];
}

/** to = a · b / 2^384, rounded */
void multiply_and_round(u64 *to, u64 *a, u64 *b) {
  u64 wide[8];
  multiply_wide(wide, a, b);
  to[0] = wide[6] + (wide[5] >> 63);
  to[1] = wide[7] + (to[0] < wide[6]);
  to[2] = 0;
  to[3] = 0;
}

/** scalar = halves[0] + halves[1]·λ modulo n: what is left of (scalar, 0) less the nearest point of the lattice */
void split(struct half *halves, u64 *scalar) {
  u64 c1[4], c2[4], number[4], wide[8];
  multiply_and_round(c1, scalar, lattice_a1_over_order);
  multiply_and_round(c2, scalar, lattice_b1_over_order);
  multiply_wide(wide, c1, lattice_a1);
  number_subtract(number, scalar, wide);
  multiply_wide(wide, c2, lattice_a2);
  number_subtract(number, number, wide);
  half_of(&halves[0], number);
  multiply_wide(wide, c1, lattice_b1);
  copy(number, wide);
  multiply_wide(wide, c2, lattice_a1);
  number_subtract(number, number, wide);
  half_of(&halves[1], number);
}

/* --- points ----------------------------------------------------------------------------------------------------- */

struct affine {
  u64 x[4], y[4];
};
struct point {
  u64 x[4], y[4], z[4];
};

/** What the coordinates of a table's entry are to be multiplied with. */
struct factors {
  u64 x[4], y[4];
  /** whether y has a factor, too */
  u64 both;
};

/** One addition to do. */
struct term {
  struct affine *entry;
  /** all ones or 0 */
  u64 negative;
  /** 0: none */
  struct factors *factors;
  struct term *next;
};

#define PRODUCT(to, a, b) \
  "leaq " to ", %rdi\n" \
  "leaq " a ", %rsi\n" \
  "leaq " b ", %rbx\n" \
  "call multiply_here\n"
#define SQUARE_OF(to, a) \
  "leaq " to ", %rdi\n" \
  "leaq " a ", %rsi\n" \
  "call square_here\n"
#define X "(%rbp)"
#define Y "32(%rbp)"
#define Z "64(%rbp)"
#define T0 "(%rsp)"
#define T1 "32(%rsp)"
#define T2 "64(%rsp)"
#define T3 "96(%rsp)"
#define T4 "128(%rsp)"

/**
 * Doubles it `times` times, at least once: L = 3/2·X², T = X·Y², X' = L² − 2·T, Y' = L·(T − X') − Y⁴, Z' = Y·Z.
 * No point of the curve has Y = 0: the order is odd.
 */
void point_double(struct point *point, u64 times);
asm(FUNCTION(point_double)
  SAVE
  "subq $104, %rsp\n"
  "movq %rdi, %rbp\n"
  "movq %rsi, 96(%rsp)\n"
  "7:\n"
  SQUARE_OF(T0, X)
  HALVE
  ADD(0, rsp)
  STORE(0, rsp)
  SQUARE_OF(T1, Y)
  PRODUCT(T2, X, T1)
  SQUARE_OF(X, T0)
  SUBTRACT(64, rsp)
  SUBTRACT(64, rsp)
  STORE(0, rbp)
  LOAD(64, rsp)
  SUBTRACT(0, rbp)
  STORE(64, rsp)
  PRODUCT(Z, Y, Z)
  SQUARE_OF(T1, T1)
  PRODUCT(T2, T2, T0)
  SUBTRACT(32, rsp)
  STORE(32, rbp)
  "decq 96(%rsp)\n"
  "jnz 7b\n"
  "addq $104, %rsp\n"
  RESTORE
  "ret\n");

#define ADDED 0
#define OPPOSITE 1
#define EQUAL 2

/**
 * sum += the term's x and y. Returns OPPOSITE or EQUAL, with the sum as it was, when that is not an addition of two
 * points: what follows from it is the caller's part.
 * H = x·Z² − X, R = ±y·Z³ − Y, V = X·H², X' = R² − H³ − 2·V, Y' = R·(V − X') − Y·H³, Z' = Z·H; in an order in which
 * one multiplication seldom waits for the one before it.
 */
int point_add(struct point *sum, struct term *term);
asm(FUNCTION(point_add)
  SAVE
  "subq $184, %rsp\n"
  "movq %rdi, %rbp\n"
  "movq 8(%rsi), %rcx\n"
  "movq 16(%rsi), %rbx\n"
  "movq (%rsi), %rsi\n"
  "leaq 32(%rsi), %rdx\n"
  "testq %rbx, %rbx\n"
  "jz 3f\n"
  "movq %rcx, 168(%rsp)\n"
  "leaq " T2 ", %rdi\n"
  "call multiply_here\n"
  "leaq 32(%rsi), %rdx\n"
  "cmpq $0, 64(%rbx)\n"
  "jz 2f\n"
  "leaq 32(%rsi), %rsi\n"
  "leaq 32(%rbx), %rbx\n"
  "leaq " T1 ", %rdi\n"
  "call multiply_here\n"
  "leaq " T1 ", %rdx\n"
  "2:\n"
  "leaq " T2 ", %rsi\n"
  "movq 168(%rsp), %rcx\n"
  "3:\n"
  "movq %rsi, 160(%rsp)\n"
  LOAD(0, rdx)
  NEGATE_IF
  STORE(32, rsp)
  SQUARE_OF(T0, Z)
  "leaq " T2 ", %rdi\n"
  "movq 160(%rsp), %rsi\n"
  "leaq " T0 ", %rbx\n"
  "call multiply_here\n"
  SUBTRACT(0, rbp)
  STORE(64, rsp)
  "xorl %ecx, %ecx\n"
  UNLESS_ZERO("4f")
  "incl %ecx\n"
  "4:\n"
  "movl %ecx, 160(%rsp)\n"
  PRODUCT(T0, T0, Z)
  SQUARE_OF(T3, T2)
  PRODUCT(T1, T1, T0)
  SUBTRACT(32, rbp)
  STORE(32, rsp)
  "cmpl $0, 160(%rsp)\n"
  "jne 5f\n"
  PRODUCT(T0, X, T3)
  PRODUCT(T4, T2, T3)
  SQUARE_OF(X, T1)
  SUBTRACT(128, rsp)
  SUBTRACT(0, rsp)
  SUBTRACT(0, rsp)
  STORE(0, rbp)
  LOAD(0, rsp)
  SUBTRACT(0, rbp)
  STORE(0, rsp)
  PRODUCT(Z, Z, T2)
  PRODUCT(T4, Y, T4)
  PRODUCT(T1, T1, T0)
  SUBTRACT(128, rsp)
  STORE(32, rbp)
  "xorl %eax, %eax\n"
  "jmp 9f\n"
  "5:\n"
  UNLESS_ZERO("6f")
  "movl $2, %eax\n"
  "jmp 9f\n"
  "6:\n"
  "movl $1, %eax\n"
  "9:\n"
  "addq $184, %rsp\n"
  RESTORE
  "ret\n");

/* --- tables ----------------------------------------------------------------------------------------------------- */

/** The parts of a factor that have a table of their own, each of so many bits of its 128. */
#define PLACES 4
#define PLACE_BITS (128 / PLACES)
#define PLACE_MASK ((1ull << PLACE_BITS) - 1)

/** Bits of a window, of which a table has the odd multiples up to half: wider ones are fewer additions, more memory. */
#define GENERATOR_WINDOW 10
#define POOL_WINDOW 4
#define KEY_WINDOW 5
#define ENTRIES(window) (1 << (window) - 2)

/** ratios[i] = Z of entry i / Z of entry i − 1, while a table is made */
u64 ratios[ENTRIES(GENERATOR_WINDOW)][4];

/**
 * table[i] = (2·i + 1)·(x, y), all with the one Z that it writes. Twice the point goes along from entry to entry, each
 * time brought to the Z of the last one, so that an addition takes seven multiplications; then all go to the last Z.
 */
void odd_multiples(struct affine *table, int entries, u64 *x, u64 *y, u64 *z) {
  struct point twice;
  u64 own[4], other[4], slope[4], scale[4];
  int at;
  copy(twice.x, x);
  copy(twice.y, y);
  copy(twice.z, one);
  point_double(&twice, 1);
  /* The point itself with Z = y, as that of its double is. */
  field_square(scale, y);
  field_multiply(table[0].x, x, scale);
  field_square(table[0].y, scale);
  for (at = 1; at < entries; at++) {
    struct affine *last = &table[at - 1], *entry = &table[at];
    u64 *ratio = ratios[at];
    field_subtract(ratio, twice.x, last->x);
    field_square(scale, ratio);
    field_multiply(own, twice.x, scale);
    field_multiply(other, last->x, scale);
    field_subtract(slope, twice.y, last->y);
    field_square(entry->x, slope);
    field_subtract(entry->x, entry->x, own);
    field_subtract(entry->x, entry->x, other);
    field_subtract(other, own, other);
    field_multiply(twice.y, twice.y, other);
    copy(twice.x, own);
    field_subtract(own, own, entry->x);
    field_multiply(own, own, slope);
    field_subtract(entry->y, own, twice.y);
  }
  copy(own, ratios[entries - 1]);
  for (at = entries - 2; at >= 0; at--) {
    field_square(scale, own);
    field_multiply(table[at].x, table[at].x, scale);
    field_multiply(scale, scale, own);
    field_multiply(table[at].y, table[at].y, scale);
    if (at > 0) field_multiply(own, own, ratios[at]);
  }
  field_multiply(z, y, own);
}

/** tables[place][i] = (2·i + 1)·2^(32·place)·(x, y), with one inversion for all. */
void make_tables(struct affine *tables, int entries, u64 *x, u64 *y) {
  struct point base;
  u64 z[PLACES][4], products[PLACES][4], scale[4], rest[4], inverse[4], square[4];
  int place, at;
  copy(base.x, x);
  copy(base.y, y);
  copy(scale, one);
  for (place = 0; place < PLACES; place++) {
    if (place > 0) {
      copy(base.z, one);
      point_double(&base, PLACE_BITS);
      field_multiply(scale, scale, base.z);
    }
    odd_multiples(tables + place * entries, entries, base.x, base.y, z[place]);
    field_multiply(z[place], z[place], scale);
    field_multiply(products[place], place > 0 ? products[place - 1] : one, z[place]);
  }
  copy(rest, products[PLACES - 1]);
  field_normalize(rest);
  field_invert(rest, rest);
  for (place = PLACES - 1; place >= 0; place--) {
    field_multiply(inverse, rest, place > 0 ? products[place - 1] : one);
    field_multiply(rest, rest, z[place]);
    field_square(square, inverse);
    field_multiply(inverse, inverse, square);
    for (at = 0; at < entries; at++) {
      struct affine *entry = &tables[place * entries + at];
      field_multiply(entry->x, entry->x, square);
      field_multiply(entry->y, entry->y, inverse);
    }
  }
}

/* --- the pool of keys that came before -------------------------------------------------------------------------- */

/** 512 sets of 4, 2.3 MB: small tables for many keys, as few come often enough for the gain of larger ones. */
#define SETS 512
#define WAYS 4
/** Hits that a slot can have ahead. */
#define MOST_CREDIT 7
/** Keys that came lately and have no slot: 128 kB. */
#define STRANGERS 16384
/** A stranger gets a slot when it comes for the third time: tables cost as much as they save in one or two uses. */
#define USES_BEFORE_SLOT 2
#define USES_MASK 3

struct slot {
  /** What the tables are of. All zeros, which is no point: of nothing. */
  struct affine key;
  struct affine tables[PLACES * ENTRIES(POOL_WINDOW)];
};

/** One line of the cache: to look for a key touches no slot but its own. */
struct set {
  u64 tags[WAYS];
  unsigned int credits[WAYS];
  /** Where to begin to look for a slot to give away. */
  u64 hand, unused;
};

/** What outlives a call. Begins at a line of the cache. */
struct state {
  /** How many verifications found the tables of their key, and how many tables were made. */
  u64 hits, made, unused[6];
  struct affine generator[PLACES * ENTRIES(GENERATOR_WINDOW)];
  struct set sets[SETS];
  struct slot slots[SETS * WAYS];
  /** By another word of the key: its first word, but for the lowest bits, in which its uses are counted. */
  u64 strangers[STRANGERS];
};

/** Asks for the first `lines` lines of 64 bytes. */
void prefetch(void *at, i64 lines);
asm(FUNCTION(prefetch)
  "1:\n"
  "prefetcht0 (%rdi)\n"
  "addq $64, %rdi\n"
  "decq %rsi\n"
  "jnz 1b\n"
  "ret\n");

int is_same(struct affine *a, struct affine *b) {
  int at;
  for (at = 0; at < 4; at++)
    if (a->x[at] != b->x[at] || a->y[at] != b->y[at]) return 0;
  return 1;
}

/**
 * The tables of the key, made now if it came often enough and a slot of its set has no credit. 0: it has none.
 *
 * A hit gives a slot credit; a key that wants in takes one from each slot that it has to pass over. So keys that come
 * once or twice, be they ever so many, drive out none, and others only what comes less often than they. Whoever chooses
 * keys to fall into one set makes it slow there, never wrong: all of a key is compared.
 */
struct affine *tables_of(struct state *state, struct affine *key) {
  int index = key->x[0] & SETS - 1, way;
  struct set *set = &state->sets[index];
  struct slot *slots = &state->slots[index * WAYS];
  for (way = 0; way < WAYS; way++)
    if (set->tags[way] == key->x[0] && is_same(&slots[way].key, key)) {
      prefetch(slots[way].tables, PLACES * ENTRIES(POOL_WINDOW));
      if (set->credits[way] < MOST_CREDIT) set->credits[way]++;
      state->hits++;
      return slots[way].tables;
    }
  u64 *stranger = &state->strangers[key->x[1] & STRANGERS - 1];
  if ((*stranger ^ key->x[0]) & ~(u64)USES_MASK) *stranger = key->x[0] & ~(u64)USES_MASK;
  if ((*stranger & USES_MASK) < USES_BEFORE_SLOT) {
    ++*stranger;
    return 0;
  }
  int found = -1, passed;
  for (passed = 0; passed < WAYS && found < 0; passed++) {
    way = set->hand++ & WAYS - 1;
    if (set->credits[way]) set->credits[way]--;
    else found = way;
  }
  if (found < 0) return 0;
  struct slot *slot = &slots[found];
  copy(slot->key.x, key->x);
  copy(slot->key.y, key->y);
  make_tables(slot->tables, ENTRIES(POOL_WINDOW), key->x, key->y);
  set->tags[found] = key->x[0];
  set->credits[found] = 1;
  *stranger = 0;
  state->made++;
  return slot->tables;
}

/* --- verification ----------------------------------------------------------------------------------------------- */

/** By the bit at which they are added; all empty between two verifications. A last carry may come at bit 128. */
struct term *terms_at[129];
/** At most 72 of a key with tables and 32 of the generator with it, or 52 of one without and 26. */
struct term terms[128];
struct term *next_term;
struct factors factors_beta = {{0xc1396c28719501ee, 0x9cf0497512f58995, 0x6e64479eac3434e9, 0x7ae96a2b657c0710}};

/**
 * Writes the terms of ±(high:low) times the point of that table: odd digits from −2^(window−1) to 2^(window−1), at
 * least `window` bits apart (wNAF).
 */
void add_terms(u64 low, u64 high, u64 negative, struct affine *table, u64 window, struct factors *factors);
asm(FUNCTION(add_terms)
  SAVE
  "movq %rcx, %r10\n"
  "movq %r8, %rbp\n"
  "movl %ebp, %ecx\n"
  "movl $1, %ebx\n"
  "shll %cl, %ebx\n"
  "decl %ebx\n"
  "leaq terms_at(%rip), %r11\n"
  "movq next_term(%rip), %r13\n"
  "xorl %r12d, %r12d\n"
  "1:\n"
  "testq %rdi, %rdi\n"
  "jnz 2f\n"
  "testq %rsi, %rsi\n"
  "jz 3f\n"
  "movq %rsi, %rdi\n"
  "xorl %esi, %esi\n"
  "addq $64, %r12\n"
  "2:\n"
  TRAILING_ZEROS(rdi, rcx)
  "addq %rcx, %r12\n"
  "shrdq %cl, %rsi, %rdi\n"
  "shrq %cl, %rsi\n"
  "movq %rdi, %rax\n"
  "andq %rbx, %rax\n"
  "movl %ebp, %ecx\n"
  "shrdq %cl, %rsi, %rdi\n"
  "shrq %cl, %rsi\n"
  /* A digit of more than half the window is what lacks to the next bit above it. */
  "decl %ecx\n"
  "movq %rax, %r14\n"
  "shrq %cl, %r14\n"
  "addq %r14, %rdi\n"
  "adcq $0, %rsi\n"
  "negq %r14\n"
  "xorq %r14, %rax\n"
  "subq %r14, %rax\n"
  "andq %rbx, %rax\n"
  "xorq %rdx, %r14\n"
  "shrq $1, %rax\n"
  "shlq $6, %rax\n"
  "addq %r10, %rax\n"
  "prefetcht0 (%rax)\n"
  "movq %rax, (%r13)\n"
  "movq %r14, 8(%r13)\n"
  "movq %r9, 16(%r13)\n"
  "movq (%r11, %r12, 8), %rax\n"
  "movq %rax, 24(%r13)\n"
  "movq %r13, (%r11, %r12, 8)\n"
  "addq $32, %r13\n"
  "addq %rbp, %r12\n"
  "jmp 1b\n"
  "3:\n"
  "movq %r13, next_term(%rip)\n"
  RESTORE
  "ret\n");

/** The terms of a factor whose point has tables for each place. */
void add_terms_of_places(struct half *halves, struct affine *tables, int window) {
  int half, place;
  for (half = 0; half < 2; half++)
    for (place = 0; place < PLACES; place++) {
      u64 bits = place < PLACES / 2 ? halves[half].low : halves[half].high;
      add_terms(bits >> place * PLACE_BITS % 64 & PLACE_MASK, 0, halves[half].negative,
        tables + place * ENTRIES(window), window, half ? &factors_beta : 0);
    }
}

/** sum = all terms, which are gone then. Returns 0 when it is the point at infinity, else 1. */
int sum_terms(struct point *sum, int highest) {
  struct term *term;
  int at, special, is_point = 0;
  u64 doublings = 0;
  for (at = highest; at >= 0; at--, doublings++) {
    term = terms_at[at];
    if (!term) continue;
    terms_at[at] = 0;
    if (is_point && doublings) point_double(sum, doublings);
    doublings = 0;
    for (; term; term = term->next) {
      if (is_point) {
        special = point_add(sum, term);
        if (special == EQUAL) point_double(sum, 1);
        else if (special == OPPOSITE) is_point = 0;
        continue;
      }
      copy(sum->x, term->entry->x);
      copy(sum->y, term->entry->y);
      copy(sum->z, one);
      if (term->factors) {
        field_multiply(sum->x, sum->x, term->factors->x);
        if (term->factors->both) field_multiply(sum->y, sum->y, term->factors->y);
      }
      field_negate_if(sum->y, sum->y, term->negative);
      is_point = 1;
    }
  }
  /* What follows the last term are doublings, of which there are one less than counted. */
  if (is_point && doublings > 1) point_double(sum, doublings - 1);
  return is_point;
}

struct affine key_table[ENTRIES(KEY_WINDOW)];

/** sum = u1·G + u2·key. Returns 0 when it is the point at infinity, else 1. */
int linear_combination(
  struct point *sum, u64 *u1, u64 *u2, struct affine *key, struct affine *tables, struct affine *generator) {
  struct half halves1[2], halves2[2];
  split(halves1, u1);
  split(halves2, u2);
  next_term = terms;
  if (tables) {
    add_terms_of_places(halves1, generator, GENERATOR_WINDOW);
    add_terms_of_places(halves2, tables, POOL_WINDOW);
    return sum_terms(sum, PLACE_BITS);
  }
  /*
   * The key's multiples share a Z that would take an inversion to get rid of. Instead all is done on the curve on which
   * Z is 1: there the generator's multiples have x·Z² and y·Z³, and the sum's Z is Z times what it seems.
   */
  u64 z[4];
  struct factors scale, scale_beta;
  int half;
  odd_multiples(key_table, ENTRIES(KEY_WINDOW), key->x, key->y, z);
  field_square(scale.x, z);
  field_multiply(scale.y, scale.x, z);
  field_multiply(scale_beta.x, scale.x, beta);
  copy(scale_beta.y, scale.y);
  scale.both = 1;
  scale_beta.both = 1;
  for (half = 0; half < 2; half++) {
    add_terms(halves1[half].low, halves1[half].high, halves1[half].negative, generator, GENERATOR_WINDOW,
      half ? &scale_beta : &scale);
    add_terms(halves2[half].low, halves2[half].high, halves2[half].negative, key_table, KEY_WINDOW,
      half ? &factors_beta : 0);
  }
  if (!sum_terms(sum, 128)) return 0;
  field_multiply(sum->z, sum->z, z);
  return 1;
}

/** Whether the affine x of the point is that number: x·Z² = X. */
int has_x(struct point *point, u64 *x) {
  u64 difference[4];
  field_square(difference, point->z);
  field_multiply(difference, difference, x);
  field_subtract(difference, difference, point->x);
  return field_is_zero(difference);
}

/**
 * Whether the signature, r and s of 32 bytes each, is one of the 32-byte digest by the key: r and s in 1…n − 1, s at
 * most half of n, and r = x modulo n for the affine x of digest/s·G + r/s·key.
 */
int verify(struct state *state, unsigned char *signature, unsigned char *digest, struct affine *key_at) {
  struct affine key;
  struct affine *tables;
  struct point sum;
  u64 r[4], s[4], number[4], inverse[4], u1[4], u2[4];
  number_read(r, signature);
  number_read(s, signature + 32);
  number_read(number, digest);
  if (is_zero(r) || is_zero(s) || !is_below(r, order) || is_below(half_order, s)) return 0;
  /* Read once: the tables in the pool have to be of the key that they are kept under. */
  copy(key.x, key_at->x);
  copy(key.y, key_at->y);
  tables = tables_of(state, &key);
  scalar_invert(inverse, s);
  scalar_multiply(u1, inverse, number);
  scalar_multiply(u2, inverse, r);
  if (!linear_combination(&sum, u1, u2, &key, tables, state->generator)) return 0;
  if (has_x(&sum, r)) return 1;
  if (!is_below(r, prime_over_order)) return 0;
  /* x may have been r + n, which is −(−r − n): subtraction is what there is. */
  number_subtract(number, zero, r);
  number_subtract(number, number, order);
  number_subtract(number, zero, number);
  return has_x(&sum, number);
}

/** Reads a point of 33 or 65 bytes (SEC 1). Returns 0 when it is none of the curve. */
int parse(struct affine *key, unsigned char *bytes, int length) {
  u64 square[4], difference[4];
  int form = bytes[0];
  if (length == 33 ? form != 2 && form != 3 : length != 65 || form != 4) return 0;
  number_read(key->x, bytes + 1);
  if (!is_below(key->x, prime)) return 0;
  field_square(square, key->x);
  field_multiply(square, square, key->x);
  field_add(square, square, seven);
  if (form == 4) {
    number_read(key->y, bytes + 33);
    if (!is_below(key->y, prime)) return 0;
  } else field_root(key->y, square);
  field_square(difference, key->y);
  field_subtract(difference, difference, square);
  if (!field_is_zero(difference)) return 0;
  field_normalize(key->y);
  /* No point has y = 0, whose negative would be p. */
  if (form != 4 && (key->y[0] & 1) != (form & 1)) number_subtract(key->y, prime, key->y);
  return 1;
}

u64 state_bytes(void) { return sizeof(struct state); }

/** Makes a state of zeroed memory. */
void start(struct state *state) {
  struct affine generator = {
    {0x59f2815b16f81798, 0x029bfcdb2dce28d9, 0x55a06295ce870b07, 0x79be667ef9dcbbac},
    {0x9c47d08ffb10d4b8, 0xfd17b448a6855419, 0x5da4fbfc0e1108a8, 0x483ada7726a3c465}};
  make_tables(state->generator, ENTRIES(GENERATOR_WINDOW), generator.x, generator.y);
}
