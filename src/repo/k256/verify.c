typedef unsigned long long u64;
typedef long long i64;

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

#define NUMBER_rax 0
#define NUMBER_rcx 1
#define NUMBER_rdx 2
#define NUMBER_rbx 3
#define NUMBER_rbp 5
#define NUMBER_rsi 6
#define NUMBER_rdi 7
#define NUMBER_r8 8
#define NUMBER_r9 9
#define NUMBER_r10 10
#define NUMBER_r11 11
#define NUMBER_r12 12
#define NUMBER_r13 13
#define NUMBER_r14 14
#define NUMBER_r15 15
#define NUMBER(reg) NUMBER_##reg

#define MULX_(mod, from, low, high)                                                                                    \
  ".byte 0xc4, " TEXT(0x42 | (~NUMBER(high) >> 3 & 1) << 7 | (~NUMBER(from) >> 3 & 1) << 5) ", "                        \
  TEXT(0x83 | (~NUMBER(low) & 15) << 3) ", 0xf6, " TEXT(mod | (NUMBER(high) & 7) << 3 | (NUMBER(from) & 7)) "\n"
#define MULX(from, low, high) MULX_(0xc0, from, low, high)
#define MULX_AT(offset, base, low, high) MULX_(0x40, base, low, high) ".byte " TEXT(offset) "\n"
#define AD_X(prefix, from, to)                                                                                         \
  ".byte " TEXT(prefix) ", " TEXT(0x48 | (NUMBER(to) >> 3) << 2 | NUMBER(from) >> 3) ", 0x0f, 0x38, 0xf6, "             \
  TEXT(0xc0 | (NUMBER(to) & 7) << 3 | (NUMBER(from) & 7)) "\n"
#define ADCX(from, to) AD_X(0x66, from, to)
#define ADOX(from, to) AD_X(0xf3, from, to)

#define MULTIPLY_ROW(offset, c0, c1, c2, c3, c4)                                                                       \
  "movq " TEXT(offset) "(%rbx), %rdx\n"                                                                                \
  "xorl %eax, %eax\n"                                                                                                  \
  MULX_AT(0, rsi, rax, rcx) ADCX(rax, c0) ADOX(rcx, c1)                                                                \
  MULX_AT(8, rsi, rax, rcx) ADCX(rax, c1) ADOX(rcx, c2)                                                                \
  MULX_AT(16, rsi, rax, rcx) ADCX(rax, c2) ADOX(rcx, c3)                                                               \
  MULX_AT(24, rsi, rax, c4) ADCX(rax, c3)                                                                              \
  "movl $0, %eax\n" ADOX(rax, c4) ADCX(rax, c4)

#define MULTIPLY                                                                                                       \
  "movq (%rbx), %rdx\n"                                                                                                \
  MULX_AT(0, rsi, r8, r9)                                                                                              \
  MULX_AT(8, rsi, rax, r10) "addq %rax, %r9\n"                                                                         \
  MULX_AT(16, rsi, rax, r11) "adcq %rax, %r10\n"                                                                       \
  MULX_AT(24, rsi, rax, r12) "adcq %rax, %r11\n"                                                                       \
  "adcq $0, %r12\n"                                                                                                    \
  MULTIPLY_ROW(8, r9, r10, r11, r12, r13)                                                                              \
  MULTIPLY_ROW(16, r10, r11, r12, r13, r14)                                                                            \
  MULTIPLY_ROW(24, r11, r12, r13, r14, r15)

#define SQUARE                                                                                                         \
  "movq (%rsi), %rdx\n"                                                                                                \
  MULX_AT(8, rsi, r9, r10)                                                                                             \
  MULX_AT(16, rsi, rax, r11) "addq %rax, %r10\n"                                                                       \
  MULX_AT(24, rsi, rax, r12) "adcq %rax, %r11\n"                                                                       \
  "adcq $0, %r12\n"                                                                                                    \
  "movq 8(%rsi), %rdx\n"                                                                                               \
  "xorl %eax, %eax\n"                                                                                                  \
  MULX_AT(16, rsi, rax, rcx) ADCX(rax, r11) ADOX(rcx, r12)                                                             \
  MULX_AT(24, rsi, rax, r13) ADCX(rax, r12)                                                                            \
  "movl $0, %eax\n" ADOX(rax, r13) ADCX(rax, r13)                                                                      \
  "movq 16(%rsi), %rdx\n"                                                                                              \
  MULX_AT(24, rsi, rax, r14)                                                                                           \
  "addq %rax, %r13\n"                                                                                                  \
  "adcq $0, %r14\n"                                                                                                    \
  "movq (%rsi), %rdx\n"                                                                                                \
  "xorl %r15d, %r15d\n"                                                                                                \
  MULX(rdx, r8, rcx) ADOX(r9, r9) ADCX(rcx, r9)                                                                        \
  "movq 8(%rsi), %rdx\n"                                                                                               \
  MULX(rdx, rax, rcx) ADOX(r10, r10) ADCX(rax, r10) ADOX(r11, r11) ADCX(rcx, r11)                                      \
  "movq 16(%rsi), %rdx\n"                                                                                              \
  MULX(rdx, rax, rcx) ADOX(r12, r12) ADCX(rax, r12) ADOX(r13, r13) ADCX(rcx, r13)                                      \
  "movq 24(%rsi), %rdx\n"                                                                                              \
  MULX(rdx, rax, rcx) ADOX(r14, r14) ADCX(rax, r14) ADOX(r15, r15) ADCX(rcx, r15)

/* r8…r15 mod p to (%rdi) */
#define REDUCE                                                                                                         \
  "movq $0x1000003d1, %rdx\n"                                                                                      \
  "xorl %eax, %eax\n"                                                                                                  \
  MULX(r12, rax, rcx) ADCX(rax, r8) ADOX(rcx, r9)                                                                      \
  MULX(r13, rax, rcx) ADCX(rax, r9) ADOX(rcx, r10)                                                                     \
  MULX(r14, rax, rcx) ADCX(rax, r10) ADOX(rcx, r11)                                                                    \
  MULX(r15, rax, r12) ADCX(rax, r11)                                                                                   \
  "movl $0, %eax\n" ADOX(rax, r12) ADCX(rax, r12)                                                                      \
  MULX(r12, rax, rcx)                                                                                                  \
  "addq %rax, %r8\n"                                                                                                   \
  "adcq %rcx, %r9\n"                                                                                                   \
  "adcq $0, %r10\n"                                                                                                    \
  "adcq $0, %r11\n"                                                                                                    \
  "jc 2f\n"                                                                                                            \
  "1:\n"                                                                                                               \
  "movq %r8, (%rdi)\n"                                                                                                 \
  "movq %r9, 8(%rdi)\n"                                                                                                \
  "movq %r10, 16(%rdi)\n"                                                                                              \
  "movq %r11, 24(%rdi)\n"                                                                                              \
  "ret\n"                                                                                                              \
  "2:\n"                                                                                                               \
  "addq %rdx, %r8\n"                                                                                                   \
  "adcq $0, %r9\n"                                                                                                     \
  "jmp 1b\n"

#define SAVE "pushq %rbx\npushq %rbp\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
#define RESTORE "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbp\npopq %rbx\n"
#define FUNCTION(name) ".text\n.align 32\n.globl " #name "\n" #name ":\n"

/* Four words at an offset of a register, and r8…r11. */
#define LOAD(offset, base) \
  "movq " TEXT(offset) "(%" #base "), %r8\n" \
  "movq " TEXT(offset) "+8(%" #base "), %r9\n" \
  "movq " TEXT(offset) "+16(%" #base "), %r10\n" \
  "movq " TEXT(offset) "+24(%" #base "), %r11\n"
#define STORE(offset, base) \
  "movq %r8, " TEXT(offset) "(%" #base ")\n" \
  "movq %r9, " TEXT(offset) "+8(%" #base ")\n" \
  "movq %r10, " TEXT(offset) "+16(%" #base ")\n" \
  "movq %r11, " TEXT(offset) "+24(%" #base ")\n"
#define WITH(first, next, offset, base) \
  first " " TEXT(offset) "(%" #base "), %r8\n" \
  next " " TEXT(offset) "+8(%" #base "), %r9\n" \
  next " " TEXT(offset) "+16(%" #base "), %r10\n" \
  next " " TEXT(offset) "+24(%" #base "), %r11\n"
#define ADD(offset, base) \
  WITH("addq", "adcq", offset, base) \
  "movq $0x1000003d1, %rdx\n" \
  "sbbq %rax, %rax\n" \
  "andq %rdx, %rax\n" \
  "addq %rax, %r8\n" \
  "adcq $0, %r9\n" \
  "adcq $0, %r10\n" \
  "adcq $0, %r11\n" \
  "jnc 1f\n" \
  "addq %rdx, %r8\n" \
  "1:\n"
#define SUBTRACT(offset, base) \
  WITH("subq", "sbbq", offset, base) \
  "movq $0x1000003d1, %rdx\n" \
  "sbbq %rax, %rax\n" \
  "andq %rdx, %rax\n" \
  "subq %rax, %r8\n" \
  "sbbq $0, %r9\n" \
  "sbbq $0, %r10\n" \
  "sbbq $0, %r11\n" \
  "jnc 1f\n" \
  "subq %rdx, %r8\n" \
  "1:\n"
#define HALVE \
  "movq $0x1000003d1, %rax\n" \
  "movq %r8, %rcx\n" \
  "andl $1, %ecx\n" \
  "negq %rcx\n" \
  "andq %rcx, %rax\n" \
  "subq %rax, %r8\n" \
  "sbbq $0, %r9\n" \
  "sbbq $0, %r10\n" \
  "sbbq $0, %r11\n" \
  "adcq $0, %rcx\n" \
  "shrdq $1, %r9, %r8\n" \
  "shrdq $1, %r10, %r9\n" \
  "shrdq $1, %r11, %r10\n" \
  "shrdq $1, %rcx, %r11\n"
/* Jumps to `label` unless r8…r11 is a multiple of p. */
#define UNLESS_ZERO(label) \
  "cmpq %r10, %r11\n" \
  "jne " label "\n" \
  "movq %r8, %rax\n" \
  "orq %r9, %rax\n" \
  "orq %r10, %rax\n" \
  "orq %r11, %rax\n" \
  "jz 1f\n" \
  "movq %r9, %rax\n" \
  "andq %r10, %rax\n" \
  "andq %r11, %rax\n" \
  "cmpq $-1, %rax\n" \
  "jne " label "\n" \
  "movq $0x1000003d1, %rax\n" \
  "addq %r8, %rax\n" \
  "jnz " label "\n" \
  "1:\n"
#define PRODUCT(to, a, b) \
  "leaq " to ", %rdi\n" \
  "leaq " a ", %rsi\n" \
  "leaq " b ", %rbx\n" \
  "call multiply_here\n"
#define SQUARED(to, a) \
  "leaq " to ", %rdi\n" \
  "leaq " a ", %rsi\n" \
  "call square_here\n"
#define X "(%rbp)"
#define Y "32(%rbp)"
#define Z "64(%rbp)"
#define T0 "(%rsp)"
#define T1 "32(%rsp)"
#define T2 "64(%rsp)"

asm(FUNCTION(multiply_here) MULTIPLY REDUCE);
asm(FUNCTION(square_here) SQUARE REDUCE);
asm(FUNCTION(field_multiply) SAVE "movq %rdx, %rbx\ncall multiply_here\n" RESTORE "ret\n");
asm(FUNCTION(field_square) SAVE "call square_here\n" RESTORE "ret\n");
asm(FUNCTION(field_add) "movq %rdx, %rcx\n" LOAD(0, rsi) ADD(0, rcx) STORE(0, rdi) "ret\n");
asm(FUNCTION(field_subtract) "movq %rdx, %rcx\n" LOAD(0, rsi) SUBTRACT(0, rcx) STORE(0, rdi) "ret\n");
asm(FUNCTION(field_halve) LOAD(0, rsi) HALVE STORE(0, rdi) "ret\n");
asm(FUNCTION(field_is_zero) LOAD(0, rdi) UNLESS_ZERO("2f") "movl $1, %eax\nret\n2: xorl %eax, %eax\nret\n");

asm(FUNCTION(point_double)
  SAVE
  "subq $112, %rsp\n"
  "movq %rdi, %rbp\n"
  "movq %rsi, 96(%rsp)\n"
  ".align 16\n"
  "7:\n"
  SQUARED(T0, X)
  HALVE
  ADD(0, rsp)
  STORE(0, rsp)
  SQUARED(T1, Y)
  PRODUCT(Z, Y, Z)
  PRODUCT(T2, X, T1)
  SQUARED(X, T0)
  SUBTRACT(64, rsp)
  SUBTRACT(64, rsp)
  STORE(0, rbp)
  LOAD(64, rsp)
  SUBTRACT(0, rbp)
  STORE(64, rsp)
  SQUARED(T1, T1)
  PRODUCT(T2, T2, T0)
  SUBTRACT(32, rsp)
  STORE(32, rbp)
  "decq 96(%rsp)\n"
  "jnz 7b\n"
  "addq $112, %rsp\n"
  RESTORE
  "ret\n");

asm(FUNCTION(point_add)
  SAVE
  "subq $112, %rsp\n"
  "movq %rdi, %rbp\n"
  "movq %rsi, 96(%rsp)\n"
  LOAD(0, rdx)
  "xorq %rcx, %r8\n"
  "xorq %rcx, %r9\n"
  "xorq %rcx, %r10\n"
  "xorq %rcx, %r11\n"
  "movq $0x1000003d0, %rdx\n"
  "andq %rdx, %rcx\n"
  "subq %rcx, %r8\n"
  "sbbq $0, %r9\n"
  "sbbq $0, %r10\n"
  "sbbq $0, %r11\n"
  "jnc 1f\n"
  "subq $1, %r8\n"
  "subq %rdx, %r8\n"
  "1:\n"
  STORE(32, rsp)
  SQUARED(T0, Z)
  "leaq " T2 ", %rdi\n"
  "movq 96(%rsp), %rsi\n"
  "leaq " T0 ", %rbx\n"
  "call multiply_here\n"
  SUBTRACT(0, rbp)
  STORE(64, rsp)
  UNLESS_ZERO("3f")
  PRODUCT(T0, T0, Z)
  PRODUCT(T1, T1, T0)
  SUBTRACT(32, rbp)
  UNLESS_ZERO("4f")
  "movl $2, %eax\n"
  "jmp 9f\n"
  "4: movl $1, %eax\n"
  "jmp 9f\n"
  "3:\n"
  PRODUCT(T0, T0, Z)
  PRODUCT(T1, T1, T0)
  SUBTRACT(32, rbp)
  STORE(32, rsp)
  PRODUCT(Z, Z, T2)
  SQUARED(T0, T2)
  PRODUCT(T2, T2, T0)
  PRODUCT(T0, X, T0)
  SQUARED(X, T1)
  SUBTRACT(64, rsp)
  SUBTRACT(0, rsp)
  SUBTRACT(0, rsp)
  STORE(0, rbp)
  LOAD(0, rsp)
  SUBTRACT(0, rbp)
  STORE(0, rsp)
  PRODUCT(T2, Y, T2)
  PRODUCT(T1, T1, T0)
  SUBTRACT(64, rsp)
  STORE(32, rbp)
  "xorl %eax, %eax\n"
  "9:\n"
  "addq $112, %rsp\n"
  RESTORE
  "ret\n");

/* ---- scalars ---- */
#define MONTGOMERY_STEP(c0, c1, c2, c3, c4, carry) \
  "movq %" #c0 ", %rdx\n" \
  "imulq %rbx, %rdx\n" \
  "xorl %eax, %eax\n" \
  MULX_AT(0, rsi, rax, rcx) ADCX(rax, c0) ADOX(rcx, c1) \
  MULX_AT(8, rsi, rax, rcx) ADCX(rax, c1) ADOX(rcx, c2) \
  MULX_AT(16, rsi, rax, rcx) ADCX(rax, c2) ADOX(rcx, c3) \
  MULX_AT(24, rsi, rax, rcx) ADCX(rax, c3) ADOX(rcx, c4) \
  "movl $0, %eax\n" ADCX(rax, c4) carry
#define CARRY(c) ADOX(rax, c) ADCX(rax, c)

asm(FUNCTION(multiply_wide)
  SAVE "movq %rdx, %rbx\n" MULTIPLY STORE(0, rdi)
  "movq %r12, 32(%rdi)\nmovq %r13, 40(%rdi)\nmovq %r14, 48(%rdi)\nmovq %r15, 56(%rdi)\n" RESTORE "ret\n");

asm(FUNCTION(scalar_multiply)
  SAVE "movq %rdx, %rbx\n"
  MULTIPLY
  "leaq order_words(%rip), %rsi\n"
  "movq $0x4b0dff665588b13f, %rbx\n"
  "xorl %ebp, %ebp\n"
  MONTGOMERY_STEP(r8, r9, r10, r11, r12, CARRY(r13) CARRY(r14) CARRY(r15) CARRY(rbp))
  MONTGOMERY_STEP(r9, r10, r11, r12, r13, CARRY(r14) CARRY(r15) CARRY(rbp))
  MONTGOMERY_STEP(r10, r11, r12, r13, r14, CARRY(r15) CARRY(rbp))
  MONTGOMERY_STEP(r11, r12, r13, r14, r15, CARRY(rbp))
  "movq %r12, %r8\nmovq %r13, %r9\nmovq %r14, %r10\nmovq %r15, %r11\n"
  WITH("subq", "sbbq", 0, rsi)
  "sbbq $0, %rbp\n"
  "cmovcq %r12, %r8\ncmovcq %r13, %r9\ncmovcq %r14, %r10\ncmovcq %r15, %r11\n"
  STORE(0, rdi)
  RESTORE "ret\n");

asm(FUNCTION(number_subtract)
  LOAD(0, rsi) WITH("subq", "sbbq", 0, rdx) STORE(0, rdi) "sbbl %eax, %eax\nnegl %eax\nret\n");
asm(FUNCTION(number_read)
  "movq 24(%rsi), %r8\nmovq 16(%rsi), %r9\nmovq 8(%rsi), %r10\nmovq (%rsi), %r11\n"
  "bswapq %r8\nbswapq %r9\nbswapq %r10\nbswapq %r11\n" STORE(0, rdi) "ret\n");
asm(FUNCTION(trailing_zeros) "bsfq %rdi, %rax\nret\n");

asm(FUNCTION(divide_steps)
  SAVE
  "movq %rdi, %r14\nmovq %rsi, %r8\nmovq %rdx, %r9\nmovq %rcx, %rdi\n"
  "movl $1, %r10d\nxorl %r11d, %r11d\nxorl %r12d, %r12d\nmovl $1, %r13d\n"
  "movl $62, %r15d\n"
  ".align 16\n"
  "1:\n"
  "movq %r9, %rax\n"
  "btsq %r15, %rax\n"
  "bsfq %rax, %rcx\n"
  "sarq %cl, %r9\n"
  "shlq %cl, %r10\n"
  "shlq %cl, %r11\n"
  "addq %rcx, %r14\n"
  "subq %rcx, %r15\n"
  "jz 3f\n"
  "testq %r14, %r14\n"
  "jle 2f\n"
  "negq %r14\n"
  "movq %r8, %rax\nmovq %r9, %r8\nnegq %rax\nmovq %rax, %r9\n"
  "movq %r10, %rax\nmovq %r12, %r10\nnegq %rax\nmovq %rax, %r12\n"
  "movq %r11, %rax\nmovq %r13, %r11\nnegq %rax\nmovq %rax, %r13\n"
  "2:\n"
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
  "movq %r8, %rax\nimulq %rdx, %rax\naddq %rax, %r9\n"
  "movq %r10, %rax\nimulq %rdx, %rax\naddq %rax, %r12\n"
  "imulq %r11, %rdx\naddq %rdx, %r13\n"
  "jmp 1b\n"
  "3:\n"
  "movq %r10, (%rdi)\nmovq %r11, 8(%rdi)\nmovq %r12, 16(%rdi)\nmovq %r13, 24(%rdi)\n"
  "movq %r14, %rax\n"
  RESTORE
  "ret\n");

/* r9:r8 += u·a + v·b, r11:r10 += q·a + r·b, of the limb at that offset */
#define COMBINE(offset) \
  "movq " TEXT(offset) "(%rdi), %rcx\n" \
  "movq %rcx, %rax\nimulq %r12\naddq %rax, %r8\nadcq %rdx, %r9\n" \
  "movq %rcx, %rax\nimulq %r14\naddq %rax, %r10\nadcq %rdx, %r11\n" \
  "movq " TEXT(offset) "(%rsi), %rcx\n" \
  "movq %rcx, %rax\nimulq %r13\naddq %rax, %r8\nadcq %rdx, %r9\n" \
  "movq %rcx, %rax\nimulq %r15\naddq %rax, %r10\nadcq %rdx, %r11\n"
#define SHIFT \
  "shrdq $62, %r9, %r8\nsarq $62, %r9\n" \
  "shrdq $62, %r11, %r10\nsarq $62, %r11\n"
#define PUT(offset) \
  "movq %r8, %rax\nandq %rbp, %rax\nmovq %rax, " TEXT(offset) "(%rdi)\n" \
  "movq %r10, %rax\nandq %rbp, %rax\nmovq %rax, " TEXT(offset) "(%rsi)\n"
#define PUT_LAST \
  "movq %r8, 32(%rdi)\nmovq %r10, 32(%rsi)\n"
#define MODULUS(offset) \
  "movq " TEXT(offset) "(%rbx), %rcx\n" \
  "movq (%rsp), %rax\nimulq %rcx\naddq %rax, %r8\nadcq %rdx, %r9\n" \
  "movq 8(%rsp), %rax\nimulq %rcx\naddq %rax, %r10\nadcq %rdx, %r11\n"
#define COMBINE_START \
  "movq (%rdx), %r12\nmovq 8(%rdx), %r13\nmovq 16(%rdx), %r14\nmovq 24(%rdx), %r15\n" \
  "movq %rcx, %rbx\n" \
  "movq $0x3fffffffffffffff, %rbp\n" \
  "xorl %r8d, %r8d\nxorl %r9d, %r9d\nxorl %r10d, %r10d\nxorl %r11d, %r11d\n"

asm(FUNCTION(combine)
  SAVE COMBINE_START
  COMBINE(0) SHIFT COMBINE(8) PUT(0) SHIFT COMBINE(16) PUT(8) SHIFT COMBINE(24) PUT(16) SHIFT COMBINE(32) PUT(24)
  SHIFT PUT_LAST
  RESTORE "ret\n");
asm(FUNCTION(combine_modulo)
  SAVE "subq $16, %rsp\n" COMBINE_START
  COMBINE(0)
  "movq 40(%rbx), %rcx\n"
  "movq %r8, %rax\nimulq %rcx, %rax\nshlq $2, %rax\nsarq $2, %rax\nmovq %rax, (%rsp)\n"
  "movq %r10, %rax\nimulq %rcx, %rax\nshlq $2, %rax\nsarq $2, %rax\nmovq %rax, 8(%rsp)\n"
  MODULUS(0) SHIFT
  COMBINE(8) MODULUS(8) PUT(0) SHIFT
  COMBINE(16) MODULUS(16) PUT(8) SHIFT
  COMBINE(24) MODULUS(24) PUT(16) SHIFT
  COMBINE(32) MODULUS(32) PUT(24) SHIFT PUT_LAST
  "addq $16, %rsp\n"
  RESTORE "ret\n");

asm(FUNCTION(has_instructions)
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
  "movl %ebx, %eax\n"
  "andl $0x80100, %eax\n"
  "cmpl $0x80100, %eax\n"
  "movl $0, %eax\n"
  "jne 1f\n"
  "movl $1, %eax\n"
  "1: popq %rbx\n"
  "ret\n");

void field_multiply(u64 *to, u64 *a, u64 *b);
void field_square(u64 *to, u64 *a);
void field_add(u64 *to, u64 *a, u64 *b);
void field_subtract(u64 *to, u64 *a, u64 *b);
void field_halve(u64 *to, u64 *a);
int field_is_zero(u64 *a);
void point_double(u64 *point, u64 times);
int point_add(u64 *point, u64 *x, u64 *y, u64 negative);
void multiply_wide(u64 *to, u64 *a, u64 *b);
void scalar_multiply(u64 *to, u64 *a, u64 *b);
int number_subtract(u64 *to, u64 *a, u64 *b);
void number_read(u64 *to, unsigned char *bytes);
i64 trailing_zeros(u64 number);
i64 divide_steps(i64 delta, u64 f, u64 g, i64 *matrix);
void combine(i64 *f, i64 *g, i64 *matrix);
void combine_modulo(i64 *d, i64 *e, i64 *matrix, void *modulus);
int has_instructions(void);

u64 order_words[4] = {0xbfd25e8cd0364141, 0xbaaedce6af48a03b, 0xfffffffffffffffe, 0xffffffffffffffff};
u64 prime_words[4] = {0xfffffffefffffc2f, 0xffffffffffffffff, 0xffffffffffffffff, 0xffffffffffffffff};
u64 half_order[4] = {0xdfe92f46681b20a0, 0x5d576e7357a4501d, 0xffffffffffffffff, 0x7fffffffffffffff};
u64 prime_minus_order[4] = {0x402da1722fc9baee, 0x4551231950b75fc4, 1, 0};
u64 montgomery_one[4] = {0x402da1732fc9bebf, 0x4551231950b75fc4, 1, 0};
u64 one[4] = {1, 0, 0, 0};
u64 seven[4] = {7, 0, 0, 0};
u64 beta[4] = {0xc1396c28719501ee, 0x9cf0497512f58995, 0x6e64479eac3434e9, 0x7ae96a2b657c0710};
u64 generator[8] = {0x59f2815b16f81798, 0x29bfcdb2dce28d9,  0x55a06295ce870b07, 0x79be667ef9dcbbac,
                    0x9c47d08ffb10d4b8, 0xfd17b448a6855419, 0x5da4fbfc0e1108a8, 0x483ada7726a3c465};
u64 lattice_g1[4] = {0xe893209a45dbb031, 0x3daa8a1471e8ca7f, 0xe86c90e49284eb15, 0x3086d221a7d46bcd};
u64 lattice_g2[4] = {0x1571b4ae8ac47f71, 0x221208ac9df506c6, 0x6f547fa90abfe4c4, 0xe4437ed6010e8828};
u64 lattice_a1[4] = {0xe86c90e49284eb15, 0x3086d221a7d46bcd, 0, 0};
u64 lattice_b1[4] = {0x6f547fa90abfe4c3, 0xe4437ed6010e8828, 0, 0};
u64 lattice_a2[4] = {0x57c1108d9d44cfd8, 0x14ca50f7a8e2f3f6, 1, 0};

struct modulus {
  i64 limbs[5];
  u64 negative_inverse;
  u64 *words;
};
struct modulus modulo_order = {
  {0x3fd25e8cd0364141, 0x2abb739abd2280ee, 0x3fffffffffffffeb, 0x3fffffffffffffff, 0xff}, 0x4b0dff665588b13f, order_words};
struct modulus modulo_prime = {
  {0x3ffffffefffffc2f, 0x3fffffffffffffff, 0x3fffffffffffffff, 0x3fffffffffffffff, 0xff}, 0xd838091dd2253531, prime_words};

#define LIMB_MASK 0x3fffffffffffffff

void to_limbs(i64 *limbs, u64 *words) {
  limbs[0] = words[0] & LIMB_MASK;
  limbs[1] = (words[0] >> 62 | words[1] << 2) & LIMB_MASK;
  limbs[2] = (words[1] >> 60 | words[2] << 4) & LIMB_MASK;
  limbs[3] = (words[2] >> 58 | words[3] << 6) & LIMB_MASK;
  limbs[4] = words[3] >> 56;
}

/* to = factor / a modulo, both below the modulus */
void invert(u64 *to, u64 *a, u64 *factor, struct modulus *modulus) {
  i64 f[5], g[5], d[5], e[5], matrix[4];
  i64 delta = 1;
  int at;
  for (at = 0; at < 5; at++) {
    f[at] = modulus->limbs[at];
    d[at] = 0;
  }
  to_limbs(g, a);
  to_limbs(e, factor);
  while (g[0] | g[1] | g[2] | g[3] | g[4]) {
    delta = divide_steps(delta, f[0] | (u64)f[1] << 62, g[0] | (u64)g[1] << 62, matrix);
    combine(f, g, matrix);
    combine_modulo(d, e, matrix, modulus);
  }
  i64 carry = 0;
  if (f[4] < 0) {
    for (at = 0; at < 4; at++) {
      carry -= d[at];
      d[at] = carry & LIMB_MASK;
      carry >>= 62;
    }
    d[4] = carry - d[4];
  }
  i64 excess = d[4] >> 8;
  while (excess) {
    carry = 0;
    for (at = 0; at < 4; at++) {
      carry += d[at];
      if (excess < 0) carry += modulus->limbs[at];
      else carry -= modulus->limbs[at];
      d[at] = carry & LIMB_MASK;
      carry >>= 62;
    }
    d[4] += carry + (excess < 0 ? 0xff : -0xff);
    excess = d[4] >> 8;
  }
  u64 words[4];
  words[0] = d[0] | (u64)d[1] << 62;
  words[1] = (u64)d[1] >> 2 | (u64)d[2] << 60;
  words[2] = (u64)d[2] >> 4 | (u64)d[3] << 58;
  words[3] = (u64)d[3] >> 6 | (u64)d[4] << 56;
  if (number_subtract(to, words, modulus->words))
    for (at = 0; at < 4; at++) to[at] = words[at];
}

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

void field_normalize(u64 *a) {
  u64 reduced[4];
  if (!number_subtract(reduced, a, prime_words)) copy(a, reduced);
}

struct part {
  u64 low, high;
  u64 negative;
};

void part_of(struct part *part, u64 *number) {
  u64 zero[4] = {0, 0, 0, 0}, negated[4];
  part->negative = 0;
  if (number[3] >> 63) {
    number_subtract(negated, zero, number);
    number = negated;
    part->negative = -1;
  }
  part->low = number[0];
  part->high = number[1];
}

void round_high(u64 *to, u64 *wide) {
  to[0] = wide[6] + (wide[5] >> 63);
  to[1] = wide[7] + (to[0] < wide[6]);
  to[2] = 0;
  to[3] = 0;
}

/* scalar = parts[0] + parts[1]·λ */
void split(struct part *parts, u64 *scalar) {
  u64 wide[8], c1[4], c2[4], number[4];
  multiply_wide(wide, scalar, lattice_g1);
  round_high(c1, wide);
  multiply_wide(wide, scalar, lattice_g2);
  round_high(c2, wide);
  multiply_wide(wide, c1, lattice_a1);
  number_subtract(number, scalar, wide);
  multiply_wide(wide, c2, lattice_a2);
  number_subtract(number, number, wide);
  part_of(&parts[0], number);
  multiply_wide(number - 0 == number ? wide : wide, c1, lattice_b1);
  copy(number, wide);
  multiply_wide(wide, c2, lattice_a1);
  number_subtract(number, number, wide);
  part_of(&parts[1], number);
}

/* ---- tables ---- */
#ifndef PLACES
#define PLACES 4
#endif
#define STEP (128 / PLACES)
#ifndef WIDTH
#define WIDTH 5
#endif
#ifndef WIDTH_G
#define WIDTH_G 10
#endif
#define COUNT (1 << WIDTH - 2)
#define COUNT_G (1 << WIDTH_G - 2)

struct affine {
  u64 x[4], y[4];
};
struct affine table_g[PLACES * COUNT_G];
u64 ratios[COUNT_G][4];

void odd_multiples(struct affine *table, int count, u64 *x, u64 *y, u64 *z) {
  u64 twice[12], w[4], v[4], t[4];
  int at;
  copy(twice, x);
  copy(twice + 4, y);
  copy(twice + 8, one);
  point_double(twice, 1);
  field_square(t, y);
  field_multiply(table[0].x, x, t);
  field_square(table[0].y, t);
  for (at = 1; at < count; at++) {
    u64 *h = ratios[at];
    field_subtract(h, twice, table[at - 1].x);
    field_square(t, h);
    field_multiply(w, twice, t);
    field_multiply(t, table[at - 1].x, t);
    field_subtract(v, twice + 4, table[at - 1].y);
    field_square(table[at].x, v);
    field_subtract(table[at].x, table[at].x, w);
    field_subtract(table[at].x, table[at].x, t);
    field_subtract(t, w, t);
    field_multiply(twice + 4, twice + 4, t);
    copy(twice, w);
    field_subtract(t, w, table[at].x);
    field_multiply(t, t, v);
    field_subtract(table[at].y, t, twice + 4);
  }
  copy(w, ratios[count - 1]);
  for (at = count - 2; at >= 0; at--) {
    field_square(t, w);
    field_multiply(table[at].x, table[at].x, t);
    field_multiply(t, t, w);
    field_multiply(table[at].y, table[at].y, t);
    if (at > 0) field_multiply(w, w, ratios[at]);
  }
  field_multiply(z, y, w);
}

void make_tables(struct affine *tables, int count, u64 *x, u64 *y) {
  u64 place[12], scale[4], z[PLACES][4], products[PLACES][4], t[4], t2[4];
  int at, index;
  copy(place, x);
  copy(place + 4, y);
  copy(scale, one);
  for (at = 0; at < PLACES; at++) {
    if (at > 0) {
      copy(place + 8, one);
      point_double(place, STEP);
      field_multiply(scale, scale, place + 8);
    }
    odd_multiples(tables + at * count, count, place, place + 4, z[at]);
    field_multiply(z[at], z[at], scale);
    if (at > 0) field_multiply(products[at], products[at - 1], z[at]);
    else copy(products[at], z[at]);
  }
  copy(t, products[PLACES - 1]);
  field_normalize(t);
  invert(t, t, one, &modulo_prime);
  for (at = PLACES - 1; at >= 0; at--) {
    u64 inverse[4];
    if (at > 0) {
      field_multiply(inverse, t, products[at - 1]);
      field_multiply(t, t, z[at]);
    } else copy(inverse, t);
    field_square(t2, inverse);
    field_multiply(inverse, inverse, t2);
    for (index = 0; index < count; index++) {
      struct affine *entry = &tables[at * count + index];
      field_multiply(entry->x, entry->x, t2);
      field_multiply(entry->y, entry->y, inverse);
    }
  }
}

/* ---- pool ---- */
struct slot {
  u64 key[8];
  struct affine tables[PLACES * COUNT];
};
#define WAYS 4
struct slot *slots;
u64 set_count;
u64 *seen;
u64 seen_count;
unsigned char *credit;

/* ---- verify ---- */
struct term {
  u64 *x, *y, *x_factor, *y_factor;
  u64 negative;
  int next;
};
struct term terms[160];
int term_count;
int heads[130];
int top;

void add_terms(u64 low, u64 high, u64 negative, int width, struct affine *table, u64 *x_factor, u64 *y_factor) {
  int position = 0, shift;
  while (low | high) {
    if (low == 0) {
      low = high;
      high = 0;
      position += 64;
    }
    shift = trailing_zeros(low);
    if (shift) {
      low = low >> shift | high << 64 - shift;
      high >>= shift;
      position += shift;
    }
    u64 digit = low & (1 << width) - 1;
    low = low >> width | high << 64 - width;
    high >>= width;
    struct term *term = &terms[term_count];
    term->negative = negative;
    if (digit >> width - 1) {
      digit = (1 << width) - digit;
      term->negative = ~negative;
      if (++low == 0) high++;
    }
    term->x = table[digit >> 1].x;
    term->y = table[digit >> 1].y;
    term->x_factor = x_factor;
    term->y_factor = y_factor;
    term->next = heads[position];
    heads[position] = term_count++;
    if (position > top) top = position;
    position += width;
  }
}

struct affine table_q[COUNT];

int verify(unsigned char *signature, unsigned char *digest, u64 *key, struct slot *slot) {
  u64 r[4], s[4], hash[4], inverse[4], u1[4], u2[4], z[4], z2[4], z3[4], beta_z2[4], t[4], x[4], y[4];
  u64 sum[12];
  struct part parts1[2], parts2[2];
  int at, half, infinite = 1;
  number_read(r, signature);
  number_read(s, signature + 32);
  number_read(hash, digest);
  if (is_zero(r) || is_zero(s) || !is_below(r, order_words) || is_below(half_order, s)) return 0;
  invert(inverse, s, montgomery_one, &modulo_order);
  scalar_multiply(u1, inverse, hash);
  scalar_multiply(u2, inverse, r);
  split(parts1, u1);
  split(parts2, u2);
  term_count = 0;
  top = -1;
  for (at = 0; at < 130; at++) heads[at] = -1;
  if (slot) {
    copy(z, one);
    for (half = 0; half < 2; half++) {
      u64 *factor = half ? beta : 0;
      struct part *p1 = &parts1[half], *p2 = &parts2[half];
      for (at = 0; at < PLACES; at++) {
        u64 mask = STEP == 64 ? -1 : (1ull << (STEP & 63)) - 1;
        int shift = at * STEP & 63;
        add_terms((at * STEP < 64 ? p1->low : p1->high) >> shift & mask, 0, p1->negative, WIDTH_G, table_g + at * COUNT_G, factor, 0);
        add_terms((at * STEP < 64 ? p2->low : p2->high) >> shift & mask, 0, p2->negative, WIDTH, slot->tables + at * COUNT, factor, 0);
      }
    }
  } else {
    odd_multiples(table_q, COUNT, key, key + 4, z);
    field_square(z2, z);
    field_multiply(z3, z2, z);
    field_multiply(beta_z2, z2, beta);
    for (half = 0; half < 2; half++) {
      struct part *p1 = &parts1[half], *p2 = &parts2[half];
      add_terms(p1->low, p1->high, p1->negative, WIDTH_G, table_g, half ? beta_z2 : z2, z3);
      add_terms(p2->low, p2->high, p2->negative, WIDTH, table_q, half ? beta : 0, 0);
    }
  }
  int pending = 0;
  for (at = top; at >= 0; at--) {
    pending++;
    int index = heads[at];
    if (index < 0) continue;
    if (!infinite) point_double(sum, pending);
    pending = 0;
    while (index >= 0) {
      struct term *term = &terms[index];
      u64 *px = term->x, *py = term->y;
      index = term->next;
      if (term->x_factor) {
        field_multiply(x, px, term->x_factor);
        px = x;
      }
      if (term->y_factor) {
        field_multiply(y, py, term->y_factor);
        py = y;
      }
      if (infinite) {
        copy(sum, px);
        copy(sum + 4, py);
        if (term->negative) field_subtract(sum + 4, modulo_prime.words, py);
        copy(sum + 8, one);
        infinite = 0;
        continue;
      }
      int special = point_add(sum, px, py, term->negative);
      if (special == 1) infinite = 1;
      if (special == 2) point_double(sum, 1);
    }
  }
  if (infinite) return 0;
  if (pending) point_double(sum, pending);
  field_multiply(z, z, sum + 8);
  field_square(z, z);
  field_multiply(t, r, z);
  field_subtract(t, t, sum);
  if (field_is_zero(t)) return 1;
  if (!is_below(r, prime_minus_order)) return 0;
  number_subtract(t, order_words, r);
  u64 zero[4] = {0, 0, 0, 0};
  number_subtract(t, zero, r);
  number_subtract(t, order_words, t);
  field_multiply(t, t, z);
  field_subtract(t, t, sum);
  return field_is_zero(t);
}

int verify_cold(unsigned char *signature, unsigned char *digest, u64 *key) { return verify(signature, digest, key, 0); }
struct slot only;
void prepare_only(u64 *key) { make_tables(only.tables, COUNT, key, key + 4); }
int verify_warm(unsigned char *signature, unsigned char *digest, u64 *key) { return verify(signature, digest, key, &only); }
void start(void) { make_tables(table_g, COUNT_G, generator, generator + 4); }
