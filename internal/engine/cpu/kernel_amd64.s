#include "textflag.h"

// Products are rounded before they are added: a fused multiply-add would be a
// little faster on some processors, but portable.go could not give its bits.

// Sums the eight lanes of each of four registers: ((0+1)+(2+3)) + ((4+5)+(6+7)).
#define SUM4(y0, y1, y2, y3, x0, tmp) \
	VHADDPS      y1, y0, y0    \
	VHADDPS      y3, y2, y2    \
	VHADDPS      y2, y0, y0    \
	VEXTRACTF128 $1, y0, tmp   \
	VADDPS       tmp, x0, x0

// func dot2x4(pairs int, c *float32, ldc uintptr, a *float32, lda uintptr, b *float32, ldb uintptr, k int, mask *[8]int32, alpha float32, add int32)
TEXT ·dot2x4(SB), NOSPLIT, $0-80
	MOVQ         pairs+0(FP), R12
	MOVQ         c+8(FP), DI
	MOVQ         ldc+16(FP), R8
	MOVQ         a+24(FP), SI
	MOVQ         b+40(FP), DX
	MOVQ         ldb+48(FP), R10
	MOVQ         k+56(FP), R15
	MOVQ         mask+64(FP), R11
	MOVL         add+76(FP), CX
	SHRQ         $3, R15
	SHLQ         $5, R15             // bytes in whole vectors
	LEAQ         (DX)(R10*1), BX
	LEAQ         (DX)(R10*2), R13
	LEAQ         (BX)(R10*2), R10    // b, BX, R13, R10: the four rows of b
	TESTQ        R11, R11
	JZ           pair
	VMOVUPS      (R11), Y15

pair:
	MOVQ   lda+32(FP), R9
	ADDQ   SI, R9
	VXORPS Y0, Y0, Y0
	VXORPS Y1, Y1, Y1
	VXORPS Y2, Y2, Y2
	VXORPS Y3, Y3, Y3
	VXORPS Y4, Y4, Y4
	VXORPS Y5, Y5, Y5
	VXORPS Y6, Y6, Y6
	VXORPS Y7, Y7, Y7
	XORQ   AX, AX
	CMPQ   AX, R15
	JGE    tail

step:
	VMOVUPS     (SI)(AX*1), Y8
	VMOVUPS     (R9)(AX*1), Y9
	VMOVUPS     (DX)(AX*1), Y10
	VMOVUPS     (BX)(AX*1), Y11
	VMOVUPS     (R13)(AX*1), Y12
	VMOVUPS     (R10)(AX*1), Y13
	VMULPS Y10, Y8, Y14
	VADDPS Y14, Y0, Y0
	VMULPS Y11, Y8, Y14
	VADDPS Y14, Y1, Y1
	VMULPS Y12, Y8, Y14
	VADDPS Y14, Y2, Y2
	VMULPS Y13, Y8, Y14
	VADDPS Y14, Y3, Y3
	VMULPS Y10, Y9, Y14
	VADDPS Y14, Y4, Y4
	VMULPS Y11, Y9, Y14
	VADDPS Y14, Y5, Y5
	VMULPS Y12, Y9, Y14
	VADDPS Y14, Y6, Y6
	VMULPS Y13, Y9, Y14
	VADDPS Y14, Y7, Y7
	ADDQ        $32, AX
	CMPQ        AX, R15
	JLT         step

tail:
	TESTQ       R11, R11
	JZ          sum
	VMASKMOVPS  (SI)(AX*1), Y15, Y8
	VMASKMOVPS  (R9)(AX*1), Y15, Y9
	VMASKMOVPS  (DX)(AX*1), Y15, Y10
	VMASKMOVPS  (BX)(AX*1), Y15, Y11
	VMASKMOVPS  (R13)(AX*1), Y15, Y12
	VMASKMOVPS  (R10)(AX*1), Y15, Y13
	VMULPS Y10, Y8, Y14
	VADDPS Y14, Y0, Y0
	VMULPS Y11, Y8, Y14
	VADDPS Y14, Y1, Y1
	VMULPS Y12, Y8, Y14
	VADDPS Y14, Y2, Y2
	VMULPS Y13, Y8, Y14
	VADDPS Y14, Y3, Y3
	VMULPS Y10, Y9, Y14
	VADDPS Y14, Y4, Y4
	VMULPS Y11, Y9, Y14
	VADDPS Y14, Y5, Y5
	VMULPS Y12, Y9, Y14
	VADDPS Y14, Y6, Y6
	VMULPS Y13, Y9, Y14
	VADDPS Y14, Y7, Y7

sum:
	SUM4(Y0, Y1, Y2, Y3, X0, X8)
	SUM4(Y4, Y5, Y6, Y7, X4, X9)
	VBROADCASTSS alpha+72(FP), X14
	VMULPS X14, X0, X0
	VMULPS X14, X4, X4
	TESTL  CX, CX
	JZ     store
	VADDPS (DI), X0, X0
	VADDPS (DI)(R8*1), X4, X4

store:
	VMOVUPS X0, (DI)
	VMOVUPS X4, (DI)(R8*1)
	LEAQ    (DI)(R8*2), DI
	MOVQ    lda+32(FP), AX
	LEAQ    (SI)(AX*2), SI
	DECQ    R12
	JNZ     pair
	VZEROUPPER
	RET

// func dot1x4(quads int, c *float32, a *float32, b *float32, ldb uintptr, k int, mask *[8]int32, alpha float32, add int32)
TEXT ·dot1x4(SB), NOSPLIT, $0-64
	MOVQ         quads+0(FP), R12
	MOVQ         c+8(FP), DI
	MOVQ         a+16(FP), SI
	MOVQ         b+24(FP), DX
	MOVQ         ldb+32(FP), R8
	MOVQ         k+40(FP), R15
	MOVQ         mask+48(FP), R11
	VBROADCASTSS alpha+56(FP), X14
	MOVL         add+60(FP), CX
	SHRQ         $3, R15
	SHLQ         $5, R15
	TESTQ        R11, R11
	JZ           quad
	VMOVUPS      (R11), Y15

quad:
	LEAQ   (DX)(R8*1), BX
	LEAQ   (DX)(R8*2), R13
	LEAQ   (BX)(R8*2), R10
	VXORPS Y0, Y0, Y0
	VXORPS Y1, Y1, Y1
	VXORPS Y2, Y2, Y2
	VXORPS Y3, Y3, Y3
	XORQ   AX, AX
	CMPQ   AX, R15
	JGE    tail

step:
	VMOVUPS     (SI)(AX*1), Y8
	VMULPS (DX)(AX*1), Y8, Y9
	VADDPS Y9, Y0, Y0
	VMULPS (BX)(AX*1), Y8, Y9
	VADDPS Y9, Y1, Y1
	VMULPS (R13)(AX*1), Y8, Y9
	VADDPS Y9, Y2, Y2
	VMULPS (R10)(AX*1), Y8, Y9
	VADDPS Y9, Y3, Y3
	ADDQ        $32, AX
	CMPQ        AX, R15
	JLT         step

tail:
	TESTQ       R11, R11
	JZ          sum
	VMASKMOVPS  (SI)(AX*1), Y15, Y8
	VMASKMOVPS  (DX)(AX*1), Y15, Y10
	VMASKMOVPS  (BX)(AX*1), Y15, Y11
	VMASKMOVPS  (R13)(AX*1), Y15, Y12
	VMASKMOVPS  (R10)(AX*1), Y15, Y13
	VMULPS Y10, Y8, Y9
	VADDPS Y9, Y0, Y0
	VMULPS Y11, Y8, Y9
	VADDPS Y9, Y1, Y1
	VMULPS Y12, Y8, Y9
	VADDPS Y9, Y2, Y2
	VMULPS Y13, Y8, Y9
	VADDPS Y9, Y3, Y3

sum:
	SUM4(Y0, Y1, Y2, Y3, X0, X8)
	VMULPS X14, X0, X0
	TESTL  CX, CX
	JZ     store
	VADDPS (DI), X0, X0

store:
	VMOVUPS X0, (DI)
	ADDQ    $16, DI
	LEAQ    (DX)(R8*4), DX
	DECQ    R12
	JNZ     quad
	VZEROUPPER
	RET

// func dot1(a, b *float32, k int, mask *[8]int32) float32
TEXT ·dot1(SB), NOSPLIT, $0-36
	MOVQ   a+0(FP), SI
	MOVQ   b+8(FP), DX
	MOVQ   k+16(FP), R15
	MOVQ   mask+24(FP), R11
	SHRQ   $3, R15
	SHLQ   $5, R15
	VXORPS Y0, Y0, Y0
	XORQ   AX, AX
	CMPQ   AX, R15
	JGE    tail

step:
	VMOVUPS     (SI)(AX*1), Y8
	VMULPS (DX)(AX*1), Y8, Y9
	VADDPS Y9, Y0, Y0
	ADDQ        $32, AX
	CMPQ        AX, R15
	JLT         step

tail:
	TESTQ       R11, R11
	JZ          sum
	VMOVUPS     (R11), Y15
	VMASKMOVPS  (SI)(AX*1), Y15, Y8
	VMASKMOVPS  (DX)(AX*1), Y15, Y10
	VMULPS Y10, Y8, Y9
	VADDPS Y9, Y0, Y0

sum:
	VHADDPS      Y0, Y0, Y0
	VHADDPS      Y0, Y0, Y0
	VEXTRACTF128 $1, Y0, X1
	VADDSS       X1, X0, X0
	VMOVSS       X0, ret+32(FP)
	VZEROUPPER
	RET

// func outer4x16(quads int, c *float32, ldc uintptr, a *float32, aRow, aCol uintptr, b *float32, ldb uintptr, k int, alpha float32, add int32)
TEXT ·outer4x16(SB), NOSPLIT, $0-80
	MOVQ         quads+0(FP), R15
	MOVQ         c+8(FP), DI
	MOVQ         ldc+16(FP), R8
	MOVQ         a+24(FP), SI
	MOVQ         aCol+40(FP), R12
	MOVQ         ldb+56(FP), R13
	VBROADCASTSS alpha+72(FP), Y14

quad:
	MOVQ   aRow+32(FP), CX
	LEAQ   (SI)(CX*1), R9
	LEAQ   (SI)(CX*2), R10
	LEAQ   (R9)(CX*2), R11
	MOVQ   b+48(FP), DX
	MOVQ   k+64(FP), CX
	VXORPS Y0, Y0, Y0
	VXORPS Y1, Y1, Y1
	VXORPS Y2, Y2, Y2
	VXORPS Y3, Y3, Y3
	VXORPS Y4, Y4, Y4
	VXORPS Y5, Y5, Y5
	VXORPS Y6, Y6, Y6
	VXORPS Y7, Y7, Y7
	XORQ   AX, AX

step:
	VMOVUPS      (DX), Y8
	VMOVUPS      32(DX), Y9
	VBROADCASTSS (SI)(AX*1), Y10
	VBROADCASTSS (R9)(AX*1), Y11
	VBROADCASTSS (R10)(AX*1), Y12
	VBROADCASTSS (R11)(AX*1), Y13
	VMULPS Y8, Y10, Y15
	VADDPS Y15, Y0, Y0
	VMULPS Y9, Y10, Y15
	VADDPS Y15, Y1, Y1
	VMULPS Y8, Y11, Y15
	VADDPS Y15, Y2, Y2
	VMULPS Y9, Y11, Y15
	VADDPS Y15, Y3, Y3
	VMULPS Y8, Y12, Y15
	VADDPS Y15, Y4, Y4
	VMULPS Y9, Y12, Y15
	VADDPS Y15, Y5, Y5
	VMULPS Y8, Y13, Y15
	VADDPS Y15, Y6, Y6
	VMULPS Y9, Y13, Y15
	VADDPS Y15, Y7, Y7
	ADDQ         R12, AX
	ADDQ         R13, DX
	DECQ         CX
	JNZ          step

	VMULPS Y14, Y0, Y0
	VMULPS Y14, Y1, Y1
	VMULPS Y14, Y2, Y2
	VMULPS Y14, Y3, Y3
	VMULPS Y14, Y4, Y4
	VMULPS Y14, Y5, Y5
	VMULPS Y14, Y6, Y6
	VMULPS Y14, Y7, Y7
	LEAQ   (DI)(R8*1), R9
	LEAQ   (DI)(R8*2), R10
	LEAQ   (R9)(R8*2), R11
	CMPL   add+76(FP), $0
	JEQ    store
	VADDPS (DI), Y0, Y0
	VADDPS 32(DI), Y1, Y1
	VADDPS (R9), Y2, Y2
	VADDPS 32(R9), Y3, Y3
	VADDPS (R10), Y4, Y4
	VADDPS 32(R10), Y5, Y5
	VADDPS (R11), Y6, Y6
	VADDPS 32(R11), Y7, Y7

store:
	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	VMOVUPS Y2, (R9)
	VMOVUPS Y3, 32(R9)
	VMOVUPS Y4, (R10)
	VMOVUPS Y5, 32(R10)
	VMOVUPS Y6, (R11)
	VMOVUPS Y7, 32(R11)
	LEAQ    (DI)(R8*4), DI
	MOVQ    aRow+32(FP), CX
	LEAQ    (SI)(CX*4), SI
	DECQ    R15
	JNZ     quad
	VZEROUPPER
	RET

// func outer1x16(c *float32, a *float32, aCol uintptr, b *float32, ldb uintptr, k int, alpha float32, add int32)
TEXT ·outer1x16(SB), NOSPLIT, $0-56
	MOVQ         c+0(FP), DI
	MOVQ         a+8(FP), SI
	MOVQ         aCol+16(FP), R12
	MOVQ         b+24(FP), DX
	MOVQ         ldb+32(FP), R13
	MOVQ         k+40(FP), CX
	VBROADCASTSS alpha+48(FP), Y14
	VXORPS       Y0, Y0, Y0
	VXORPS       Y1, Y1, Y1

step:
	VBROADCASTSS (SI), Y10
	VMULPS (DX), Y10, Y11
	VADDPS Y11, Y0, Y0
	VMULPS 32(DX), Y10, Y11
	VADDPS Y11, Y1, Y1
	ADDQ         R12, SI
	ADDQ         R13, DX
	DECQ         CX
	JNZ          step

	VMULPS Y14, Y0, Y0
	VMULPS Y14, Y1, Y1
	CMPL   add+52(FP), $0
	JEQ    store
	VADDPS (DI), Y0, Y0
	VADDPS 32(DI), Y1, Y1

store:
	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	VZEROUPPER
	RET

// func outer4x8(quads int, c *float32, ldc uintptr, a *float32, aRow, aCol uintptr, b *float32, ldb uintptr, k int, mask *[8]int32, alpha float32, add int32)
TEXT ·outer4x8(SB), NOSPLIT, $0-88
	MOVQ         quads+0(FP), R15
	MOVQ         c+8(FP), DI
	MOVQ         ldc+16(FP), R8
	MOVQ         a+24(FP), SI
	MOVQ         aCol+40(FP), R12
	MOVQ         ldb+56(FP), R13
	MOVQ         mask+72(FP), AX
	VMOVUPS      (AX), Y15
	VBROADCASTSS alpha+80(FP), Y14

quad:
	MOVQ   aRow+32(FP), CX
	LEAQ   (SI)(CX*1), R9
	LEAQ   (SI)(CX*2), R10
	LEAQ   (R9)(CX*2), R11
	MOVQ   b+48(FP), DX
	MOVQ   k+64(FP), CX
	VXORPS Y0, Y0, Y0
	VXORPS Y2, Y2, Y2
	VXORPS Y4, Y4, Y4
	VXORPS Y6, Y6, Y6
	XORQ   AX, AX

step:
	VMASKMOVPS   (DX), Y15, Y8
	VBROADCASTSS (SI)(AX*1), Y10
	VBROADCASTSS (R9)(AX*1), Y11
	VBROADCASTSS (R10)(AX*1), Y12
	VBROADCASTSS (R11)(AX*1), Y13
	VMULPS Y8, Y10, Y9
	VADDPS Y9, Y0, Y0
	VMULPS Y8, Y11, Y9
	VADDPS Y9, Y2, Y2
	VMULPS Y8, Y12, Y9
	VADDPS Y9, Y4, Y4
	VMULPS Y8, Y13, Y9
	VADDPS Y9, Y6, Y6
	ADDQ         R12, AX
	ADDQ         R13, DX
	DECQ         CX
	JNZ          step

	VMULPS     Y14, Y0, Y0
	VMULPS     Y14, Y2, Y2
	VMULPS     Y14, Y4, Y4
	VMULPS     Y14, Y6, Y6
	LEAQ       (DI)(R8*1), R9
	LEAQ       (DI)(R8*2), R10
	LEAQ       (R9)(R8*2), R11
	CMPL       add+84(FP), $0
	JEQ        store
	VMASKMOVPS (DI), Y15, Y1
	VMASKMOVPS (R9), Y15, Y3
	VMASKMOVPS (R10), Y15, Y5
	VMASKMOVPS (R11), Y15, Y7
	VADDPS     Y1, Y0, Y0
	VADDPS     Y3, Y2, Y2
	VADDPS     Y5, Y4, Y4
	VADDPS     Y7, Y6, Y6

store:
	VMASKMOVPS Y0, Y15, (DI)
	VMASKMOVPS Y2, Y15, (R9)
	VMASKMOVPS Y4, Y15, (R10)
	VMASKMOVPS Y6, Y15, (R11)
	LEAQ       (DI)(R8*4), DI
	MOVQ       aRow+32(FP), CX
	LEAQ       (SI)(CX*4), SI
	DECQ       R15
	JNZ        quad
	VZEROUPPER
	RET

// func outer1x8(c *float32, a *float32, aCol uintptr, b *float32, ldb uintptr, k int, mask *[8]int32, alpha float32, add int32)
TEXT ·outer1x8(SB), NOSPLIT, $0-64
	MOVQ         c+0(FP), DI
	MOVQ         a+8(FP), SI
	MOVQ         aCol+16(FP), R12
	MOVQ         b+24(FP), DX
	MOVQ         ldb+32(FP), R13
	MOVQ         k+40(FP), CX
	MOVQ         mask+48(FP), AX
	VMOVUPS      (AX), Y15
	VBROADCASTSS alpha+56(FP), Y14
	VXORPS       Y0, Y0, Y0

step:
	VMASKMOVPS   (DX), Y15, Y8
	VBROADCASTSS (SI), Y10
	VMULPS Y8, Y10, Y9
	VADDPS Y9, Y0, Y0
	ADDQ         R12, SI
	ADDQ         R13, DX
	DECQ         CX
	JNZ          step

	VMULPS     Y14, Y0, Y0
	CMPL       add+60(FP), $0
	JEQ        store
	VMASKMOVPS (DI), Y15, Y1
	VADDPS     Y1, Y0, Y0

store:
	VMASKMOVPS Y0, Y15, (DI)
	VZEROUPPER
	RET

DATA expConst<>+0(SB)/4, $0x42b20000  // 89: its exponential is infinite
DATA expConst<>+4(SB)/4, $0xc2aeac4f  // -87.33654: smaller results are zero
DATA expConst<>+8(SB)/4, $0x3fb8aa3b  // log2(e)
DATA expConst<>+12(SB)/4, $0x3f318000 // ln(2), high part
DATA expConst<>+16(SB)/4, $0xb95e8083 // ln(2), low part
DATA expConst<>+20(SB)/4, $0x39506967 // polynomial, as in exp32
DATA expConst<>+24(SB)/4, $0x3ab743ce
DATA expConst<>+28(SB)/4, $0x3c088908
DATA expConst<>+32(SB)/4, $0x3d2aa9c1
DATA expConst<>+36(SB)/4, $0x3e2aaaaa
DATA expConst<>+40(SB)/4, $0x3f000000
DATA expConst<>+44(SB)/4, $0x3f800000 // 1
DATA expConst<>+48(SB)/4, $127
GLOBL expConst<>(SB), RODATA, $52

// func expVector(dst, x *float32, n int, mask *[8]int32, scale, shift float32)
TEXT ·expVector(SB), NOSPLIT, $0-40
	MOVQ         dst+0(FP), DI
	MOVQ         x+8(FP), SI
	MOVQ         n+16(FP), CX
	MOVQ         mask+24(FP), R8
	VBROADCASTSS scale+32(FP), Y15
	VBROADCASTSS shift+36(FP), Y14
	VBROADCASTSS expConst<>+0(SB), Y13
	VBROADCASTSS expConst<>+4(SB), Y12
	VBROADCASTSS expConst<>+8(SB), Y11
	VBROADCASTSS expConst<>+12(SB), Y10
	VBROADCASTSS expConst<>+16(SB), Y9
	VBROADCASTSS expConst<>+44(SB), Y8
	SHRQ         $3, CX
	JZ           tail

full:
	VMOVUPS (SI), Y0
	CALL    exp8<>(SB)
	VMOVUPS Y0, (DI)
	ADDQ    $32, SI
	ADDQ    $32, DI
	DECQ    CX
	JNZ     full

tail:
	TESTQ      R8, R8
	JZ         done
	VMOVUPS    (R8), Y7
	VMASKMOVPS (SI), Y7, Y0
	CALL       exp8<>(SB)
	VMASKMOVPS Y0, Y7, (DI)

done:
	VZEROUPPER
	RET

// exp8 replaces Y0 by exp(scale·Y0 - shift), with expVector's constants in
// Y8 to Y15. It uses Y1 to Y6.
TEXT exp8<>(SB), NOSPLIT, $0-0
	VMULPS       Y15, Y0, Y0
	VSUBPS       Y14, Y0, Y0         // t
	VCMPPS       $13, Y12, Y0, Y5    // t >= lowest
	VCMPPS       $3, Y0, Y0, Y6      // t is NaN
	VMINPS       Y13, Y0, Y1
	VMAXPS       Y12, Y1, Y1
	VMULPS       Y11, Y1, Y2
	VROUNDPS     $0, Y2, Y2          // n
	VMULPS       Y10, Y2, Y4
	VSUBPS       Y4, Y1, Y1
	VMULPS       Y9, Y2, Y4
	VSUBPS       Y4, Y1, Y1          // r
	VBROADCASTSS expConst<>+20(SB), Y3
	VBROADCASTSS expConst<>+24(SB), Y4
	VMULPS       Y1, Y3, Y3
	VADDPS       Y4, Y3, Y3
	VBROADCASTSS expConst<>+28(SB), Y4
	VMULPS       Y1, Y3, Y3
	VADDPS       Y4, Y3, Y3
	VBROADCASTSS expConst<>+32(SB), Y4
	VMULPS       Y1, Y3, Y3
	VADDPS       Y4, Y3, Y3
	VBROADCASTSS expConst<>+36(SB), Y4
	VMULPS       Y1, Y3, Y3
	VADDPS       Y4, Y3, Y3
	VBROADCASTSS expConst<>+40(SB), Y4
	VMULPS       Y1, Y3, Y3
	VADDPS       Y4, Y3, Y3
	VMULPS       Y1, Y1, Y4
	VMULPS       Y4, Y3, Y3
	VADDPS       Y1, Y3, Y3
	VADDPS       Y8, Y3, Y3
	VCVTPS2DQ    Y2, Y2
	VPSRAD       $1, Y2, Y4          // 2^n in two halves: n can be 128
	VPSUBD       Y4, Y2, Y2
	VPBROADCASTD expConst<>+48(SB), Y1
	VPADDD       Y1, Y4, Y4
	VPADDD       Y1, Y2, Y2
	VPSLLD       $23, Y4, Y4
	VPSLLD       $23, Y2, Y2
	VMULPS       Y4, Y3, Y3
	VMULPS       Y2, Y3, Y3
	VANDPS       Y5, Y3, Y0
	VORPS        Y6, Y0, Y0
	RET
