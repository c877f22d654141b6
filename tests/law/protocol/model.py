# ruff: noqa: B007, B023, E401, E501, E701, E702, E703, E731, E741, F401, FURB171, I001, N805, N806, N818, PLR5501, Q000, RUF005, RUF023, SIM102, SIM114, SIM201, SIM905, T201, UP031, W291
# fmt: off
# A copy of /work/shared/protocol/model.py, the checker that FINDINGS.md reports on. Unchanged below this line.
"""Explicit-state model of the saga protocol. Breadth first, states hashed as bytes.  pypy3 model.py [scenario ...]
One saga row + queue bits + executions (workers) + requests on the wire + 202-jobs + callbacks + participants + budgets."""
import sys, time, array
from collections import deque
# action states
P,S,R,W,T,OK,RF,EX,SK,CA = range(10)
AN = 'PENDING SCHEDULED RUNNING WAITING RETRYING SUCCEEDED REFUSED EXHAUSTED SKIPPED CANCELLED'.split()
# compensation states share P,S,R,W,T ; then
CO,CF,NN,RV = 5,6,7,8
CN = 'PENDING SCHEDULED RUNNING WAITING RETRYING COMPENSATED FAILED NOT_NEEDED RESOLVED'.split()
# saga
X,K,D,F,C,A = range(6)
SN = 'EXECUTING COMPENSATING COMPLETED FAILED COMPENSATION_FAILED ABANDONED'.split()
# exec phases / outcomes
c_,s_,o_ok,o_ref,o_unk,o_ns,o_acc,r_ = range(8)
o_over=8   # unknown, but over: a whole 5xx answer, or the worker's own full timeout
ON = ['claimed','sent','ok','refused','unknown(cut)','not-sent','202','read','unknown(over)']
OPN = ['action','comp']
# step record
a_,att_,bud_,unk_,win_,cs_,catt_,cbud_,qa_,qc_,key_,csent_,cwin_ = range(13)

class Cfg:
    shape='chain2'; variant='B'; maxatt=2; slots=2
    A1=True          # timing: a worker never sends after the attempt's lease end (send check)
    A2=True          # timing: a request is over at the participant before its attempt's lease end
    f=2; b=2; o=0; ops=(); deadline=True; async_=False; dup=True
    none=(); pivot=None; on_exh='compensate'; on_cf='continue'
    # rules; True = repaired rule, False = literal reading
    quiet=True       # compensation waits for lease end of every attempt that ended unknown
    transitive=True  # reverse order over transitive dependents
    sticky=True; lost_unknown=True; skip_keeps=True; att_monotone=True
    retry_unpauses=True; resume_retries=True; pivot_defer=True; post_hold=True
    claim_pause=True; claim_state=True; two_phase=False; guard=True; version_drop=False; assume_mine=False
    job_barrier=True; late_ok=False; skip_running=False; newkey_ops=False; redispatch=True; min_wake=True
    wait_waiting=False; clear_unk_confirm=False; halt_begun='go'; retry_inflight_check=True; jobcheck=False
    fine=True; post_retry=True; retry_ordered=True; pivot_skip=True; held_bool=False; resolve_waits=True; skip_confirm=True; turn_keeps_pause=True
    cap=6_000_000
    def __init__(s, **k):
        for n,v in k.items():
            assert hasattr(Cfg,n), n
            setattr(s,n,v)
        sh={'one':[()], 'chain2':[(),(0,)], 'chain3':[(),(0,),(1,)], 'par2':[(),()], 'fork':[(),(0,),(0,)], 'join':[(),(),(0,1)]}[s.shape]
        s.deps=sh; s.n=len(sh)
        s.dependents=[[j for j in range(s.n) if i in sh[j]] for i in range(s.n)]
        tr=[]
        for i in range(s.n):
            seen=set(); todo=list(s.dependents[i])
            while todo:
                j=todo.pop()
                if j not in seen: seen.add(j); todo+=s.dependents[j]
            tr.append(sorted(seen))
        s.trans=tr

class V(Exception): pass

class M:
    __slots__=('wk','st','hold','dl','gc','want','steps','slots','net','jobs','cbs','parts','f','b','o','viol')
    def copy(m):
        n=M.__new__(M)
        n.wk=m.wk;n.st=m.st;n.hold=m.hold;n.dl=m.dl;n.gc=m.gc;n.want=m.want
        n.steps=[x[:] for x in m.steps];n.slots=m.slots[:];n.net=m.net[:];n.jobs=m.jobs[:];n.cbs=m.cbs[:]
        n.parts=[x[:] for x in m.parts];n.f=m.f;n.b=m.b;n.o=m.o;n.viol=None
        return n
    def enc(m):
        m.slots.sort();m.net.sort();m.jobs.sort();m.cbs.sort()
        L=[m.st,m.hold,m.dl,m.gc,m.want,m.f,m.b,m.o,m.wk]
        for x in m.steps: L+=x
        for x in m.parts: L+=x
        for grp in (m.slots,m.net,m.jobs,m.cbs):
            L.append(len(grp))
            for t in grp: L+=t
        return bytes(L)
def dec(cfg,z):
    m=M.__new__(M); m.viol=None
    m.st,m.hold,m.dl,m.gc,m.want,m.f,m.b,m.o,m.wk=z[:9]; i=9
    m.steps=[]
    for _ in range(cfg.n): m.steps.append(list(z[i:i+13])); i+=13
    m.parts=[]
    for _ in range(cfg.n): m.parts.append(list(z[i:i+3])); i+=3
    out=[]
    for w in (6,4,4,4):
        k=z[i]; i+=1; g=[]
        for _ in range(k): g.append(tuple(z[i:i+w])); i+=w
        out.append(g)
    m.slots,m.net,m.jobs,m.cbs=out
    return m

def initial(cfg):
    m=M.__new__(M); m.viol=None
    m.wk=0;m.st=X;m.hold=0;m.dl=0 if cfg.deadline else 1;m.gc=0;m.want=0
    m.steps=[[P,0,0,0,0,P,0,0,0,0,0,0,0] for _ in range(cfg.n)]
    m.parts=[[0,0,0] for _ in range(cfg.n)]   # standing effects (bit per key), keys seen, compensated
    m.slots=[];m.net=[];m.jobs=[];m.cbs=[];m.f=cfg.f;m.b=cfg.b;m.o=cfg.o
    advance(cfg,m); return m

# ---------------------------------------------------------------- the machine (pure)
def paused(cfg,m):
    if m.hold: return True
    if cfg.held_bool: return False
    if m.st==X:
        pp=past_pivot(cfg,m)
        for i in range(cfg.n):
            x=m.steps[i]
            if x[a_]==EX and cfg.on_exh=='pause' and not m.hold==9: return True
            if x[a_]==RF and pp and cfg.post_hold: return True
    return False
def past_pivot(cfg,m): return cfg.pivot is not None and m.steps[cfg.pivot][a_]==OK
def pivot_open(cfg,m):
    """pivot without compensation whose outcome is not certainly 'no'"""
    if cfg.pivot is None or not cfg.pivot_defer or cfg.pivot not in cfg.none: return False
    x=m.steps[cfg.pivot]
    if x[a_]==SK and cfg.pivot_skip: return False
    return x[a_]==R or x[a_]==W or (x[unk_] and x[a_]!=OK)
def turn(cfg,m,lift=False):
    m.st=K; m.want=0
    if lift or not cfg.turn_keeps_pause:
        if m.hold and not lift and any(needs(cfg,x,i) and x[a_]!=R for i,x in enumerate(m.steps)): m.viol='O3 a saga paused by an operator begins to compensate by itself'
        m.hold=0
    for x in m.steps:
        if x[a_] in (P,): x[a_]=CA
        elif x[a_] in (S,T): x[a_]=CA
        elif x[a_]==W:
            x[a_]=CA; x[unk_]=1
        x[qa_]=x[qa_]  # a message may still lie in the queue
def needs(cfg,x,i):
    if i in cfg.none: return False
    return x[a_]==OK or (x[unk_] and (cfg.skip_keeps or x[a_]!=SK))
ENDED=(CO,NN,RV)
def advance(cfg,m):
    if m.st==X:
        pp=past_pivot(cfg,m)
        bad=False
        for i,x in enumerate(m.steps):
            if x[a_]==RF and not pp: bad=True
            if x[a_]==EX and cfg.on_exh=='compensate' and not pp: bad=True
        if (bad or m.want) and not pp:
            if pivot_open(cfg,m):
                m.want=1
                px=m.steps[cfg.pivot]
                if px[a_] in (EX,RF): px[a_]=T; px[bud_]=0   # outcome open: go on asking with the same key, no limit
            else: turn(cfg,m)
        elif pp: m.want=0
        if pp and cfg.post_retry:
            for x in m.steps:
                if x[a_]==EX: x[a_]=T; x[bud_]=0
    if m.st==X:
        if all(x[a_] in (OK,SK) for x in m.steps): m.st=D; m.hold=0; return
        if not paused(cfg,m) and not m.want:
            for i,x in enumerate(m.steps):
                if x[a_]==P and all(m.steps[d][a_] in (OK,SK) for d in cfg.deps[i]): x[a_]=S; x[qa_]=1
    if m.st==K:
        ss=m.steps
        changed=True
        while changed:
            changed=False
            for i,x in enumerate(ss):
                if x[cs_]!=P or x[a_]==R: continue
                if not needs(cfg,x,i): x[cs_]=NN; changed=True; continue
                ds=cfg.trans[i] if cfg.transitive else cfg.dependents[i]
                ok=True
                for d in ds:
                    y=ss[d]
                    if y[a_]==R: ok=False
                    elif y[cs_] in ENDED: pass
                    elif y[cs_]==CF and cfg.on_cf=='continue': pass
                    else: ok=False
                if cfg.quiet and x[win_]: ok=False
                if cfg.on_cf=='halt' and any(y[cs_]==CF for y in ss): ok=False
                if ok and not m.hold: x[cs_]=S; x[qc_]=1
        run=any(x[a_]==R for x in ss)
        if not run:
            if all(x[cs_] in (CO,NN,RV,CF) for x in ss):
                m.st=C if any(x[cs_]==CF for x in ss) else F; m.hold=0
            elif cfg.on_cf=='halt' and any(x[cs_]==CF for x in ss) and not any(x[cs_] in (S,R,W,T) for x in ss):
                m.st=C; m.hold=0

def outcome(cfg,m,i,op,att,o):
    """an answer (or loss) of attempt att; the machine judges"""
    x=m.steps[i]
    if m.st in (D,F,A,C): return False
    over=False
    if o==o_over: o=o_unk; over=cfg.fine
    if op==0:
        if x[att_]!=att or x[a_] not in (R,W):
            if cfg.late_ok and o==o_ok and m.st==X and x[a_] in (T,S,EX): 
                x[a_]=OK; x[unk_]=0; x[qa_]=0; advance(cfg,m); return True
            return False
        if o==o_acc:
            if x[a_]==W: return False
            if m.st==K: x[a_]=CA; x[unk_]=1; x[win_]&=~(1<<att); advance(cfg,m); return True
            x[a_]=W; x[win_]&=~(1<<att); return True
        if o==o_ok: x[a_]=OK; x[unk_]=0; x[win_]&=~(1<<att)
        elif o==o_ref:
            x[win_]&=~(1<<att)
            if not cfg.sticky: x[unk_]=0
            x[a_]=RF if m.st==X else CA
        else:
            if o==o_unk:
                x[unk_]=1
                if over: x[win_]&=~(1<<att)
            else:
                x[win_]&=~(1<<att)
                if not cfg.sticky: x[unk_]=0
            if not cfg.quiet: x[win_]&=~(1<<att)
            if m.st==K: x[a_]=CA
            elif x[bud_]<cfg.maxatt or past_pivot(cfg,m): x[a_]=T
            else:
                x[a_]=EX
                if cfg.held_bool and cfg.on_exh=='pause': m.hold=1
    else:
        if m.st!=K or x[catt_]!=att or x[cs_] not in (R,W): return False
        if o==o_acc:
            if x[cs_]==W: return False
            x[cwin_]&=~(1<<att); x[cs_]=W; return True
        if o in (o_ok,o_ref,o_ns) or over: x[cwin_]&=~(1<<att)
        if o==o_ok: x[cs_]=CO
        elif o==o_ref: x[cs_]=CF
        else: x[cs_]=T if x[cbud_]<cfg.maxatt else CF
    if op==1 and x[cs_]==CF: x[csent_]|=2
    advance(cfg,m); return True

def claimable(cfg,m,i,op):
    x=m.steps[i]
    if cfg.claim_pause and paused(cfg,m): return False
    if op==0: return x[a_]==S and (m.st==X) and (not m.want or i==cfg.pivot) if cfg.claim_state else x[a_]==S
    return x[cs_]==S and (m.st==K)
def claim(cfg,m,i,op):
    x=m.steps[i]
    if op==0:
        x[att_]+=1; x[bud_]+=1; x[a_]=R; x[win_]|=1<<x[att_]; return x[att_]
    x[catt_]+=1; x[cbud_]+=1; x[cs_]=R; x[cwin_]|=1<<x[catt_]; return x[catt_]

# ---------------------------------------------------------------- invariants
def rest(m): return m.st in (D,F,C,A)
def wake(cfg,m):
    if m.st==X and m.dl==0: return True
    for x in m.steps:
        if m.st==X and x[a_] in (S,R,W,T): return True
        if m.st==K and (x[a_]==R or x[cs_] in (S,R,W,T)): return True
        if m.st==K and cfg.quiet and x[win_] and x[cs_]==P: return True
    return False
def check(cfg,m,allow=()):
    if m.viol and m.viol.split()[0] not in allow: return m.viol
    if m.st==D:
        for i,x in enumerate(m.steps):
            e=m.parts[i][0]
            if x[a_]==OK and e==0: return 'E1 COMPLETED but step %d has no effect'%i
            if e==3: return 'E2 COMPLETED and step %d took effect twice'%i
            if x[a_]==SK and e and i not in cfg.none: return 'E3 COMPLETED, step %d skipped though it took effect'%i
        if m.gc: return 'O1 a cancel answered 202 and the saga is COMPLETED'
    if m.st==F:
        for i,x in enumerate(m.steps):
            if m.parts[i][0] and x[cs_]!=RV and (i not in cfg.none or i==cfg.pivot): return 'E4 FAILED but the effect of step %d stands'%i
    if m.st==C:
        for i,x in enumerate(m.steps):
            if m.parts[i][0] and x[cs_] not in (CF,RV) and not (cfg.on_cf=='halt' and x[cs_]==P) and (i not in cfg.none or i==cfg.pivot):
                return 'E5 COMPENSATION_FAILED, effect of step %d stands unlisted'%i
    if not rest(m) and not paused(cfg,m) and not wake(cfg,m): return 'L1 not at rest, not paused, no wake_at'
    seen=set()
    for t in m.slots:
        if t[4]==r_: continue
        k=t[:3]
        if k in seen: return 'D1 two executions of one attempt'
        seen.add(k)
    return None

# ---------------------------------------------------------------- transitions
def succ(cfg,z):
    """yields (label, fault?, M)"""
    m=dec(cfg,z); out=[]
    nm=lambda i:'ABC'[i]
    def add(label,fault,n): out.append((label,fault,n))
    def touch(n):  # the row's version changed: every snapshot in hand is stale
        if cfg.two_phase or cfg.version_drop:
            n.slots=[t[:5]+(0,) for t in n.slots]
    fin=rest(m)
    # 1,2 messages
    for i in range(cfg.n):
        for op in (0,1):
            q=qa_ if op==0 else qc_
            if not m.steps[i][q]: continue
            if not fin and m.f>0 and m.steps[i][a_ if op==0 else cs_]==S:
                n=m.copy(); n.steps[i][q]=0; n.f-=1; add('message %s/%s lost'%(nm(i),OPN[op]),1,n)
            if claimable(cfg,m,i,op):
                if len(m.slots)<cfg.slots:
                    for dup in (0,1):
                        if dup and not (cfg.dup and m.f>0): continue
                        n=m.copy()
                        if dup: n.f-=1
                        else: n.steps[i][q]=0
                        if cfg.two_phase:
                            x=n.steps[i]; at=(x[att_] if op==0 else x[catt_])+1
                            n.slots.append((i,op,at,x[key_],r_,1))
                            add('worker reads the row for %s/%s%s'%(nm(i),OPN[op],' (message doubled)' if dup else ''),dup,n)
                        else:
                            at=claim(cfg,n,i,op); touch(n)
                            if paused(cfg,m): n.viol='O3 something new is sent while paused'
                            if fin: n.viol='T2 a call is made for a saga in a final state'
                            n.slots.append((i,op,at,n.steps[i][key_],c_,1))
                            add('claim %s/%s attempt %d%s'%(nm(i),OPN[op],at,' (message doubled)' if dup else ''),dup,n)
            else:
                x=m.steps[i]
                if cfg.assume_mine and len(m.slots)<cfg.slots and (x[a_] if op==0 else x[cs_])==R and m.st in (X,K):
                    n=m.copy(); n.steps[i][q]=0
                    n.slots.append((i,op,x[att_] if op==0 else x[catt_],x[key_],c_,1)); add('second worker takes the claim of %s/%s for its own'%(nm(i),OPN[op]),0,n)
                n=m.copy(); n.steps[i][q]=0; add('message %s/%s arrives, dropped'%(nm(i),OPN[op]),0,n)
    # executions
    for t in m.slots:
        i,op,at,key,ph,fr=t
        def wo(): 
            n=m.copy(); n.slots.remove(t); return n
        if m.f>0:
            n=wo(); n.f-=1; add('worker of %s/%s %d dies (%s)'%(nm(i),OPN[op],at,ON[ph]),1,n)
        if ph==r_:
            n=wo()
            x=n.steps[i]
            if fr:
                if claimable(cfg,n,i,op):
                    claim(cfg,n,i,op); touch(n); n.slots.append((i,op,at,key,c_,1)); add('CAS claims %s/%s %d'%(nm(i),OPN[op],at),0,n)
                else: add('drop',0,n)
            elif not cfg.guard:
                if op==0: x[a_]=R; x[att_]=at; x[win_]|=1<<at; x[bud_]=max(x[bud_],1)
                else: x[cs_]=R; x[catt_]=at; x[cbud_]=max(x[cbud_],1)
                n.slots.append((i,op,at,key,c_,1)); add('unguarded write claims %s/%s %d'%(nm(i),OPN[op],at),0,n)
            else:
                if claimable(cfg,n,i,op): 
                    xx=n.steps[i]; n.slots.append((i,op,(xx[att_] if op==0 else xx[catt_])+1,xx[key_],r_,1)); add('CAS conflict on %s/%s, read again'%(nm(i),OPN[op]),0,n)
                else: add('CAS conflict on %s/%s, not claimable any more'%(nm(i),OPN[op]),0,n)
        elif ph==c_:
            # send
            x=m.steps[i]
            late = op==0 and not (x[win_]>>at)&1
            n=wo(); n.slots.append((i,op,at,key,s_,fr)); n.net.append((i,op,at,key))
            if op==1:
                n.steps[i][csent_]|=1
                for u in m.slots:
                    if u[0]==i and u[1]==0 and u[4]==c_: n.viol='R4a compensation of %s sent while a worker is still about to send its action'%nm(i)
                for u in m.net:
                    if u[0]==i and u[1]==0: n.viol='R4b compensation of %s sent while a request of its action is under way'%nm(i)
                if cfg.jobcheck:
                    for u in m.jobs:
                        if u[0]==i and u[1]==0: n.viol='R4c compensation of %s sent while a 202 job of its action runs'%nm(i)
                if x[att_]==0: n.viol='N1 compensation of %s sent, action never claimed'%nm(i)
                for d in cfg.trans[i]:
                    y=m.steps[d]
                    if y[a_]==R: n.viol='V1 compensation of %s sent while dependent %s runs'%(nm(i),nm(d))
                    if d not in cfg.none and y[cs_] not in (CO,NN,RV,CF): n.viol='V1 compensation of %s sent before that of %s ended'%(nm(i),nm(d))
            else:
                if x[csent_]&1: n.viol='R5 action of %s sent after its compensation'%nm(i)
            add('request %s/%s %d leaves the worker%s'%(nm(i),OPN[op],at,' (lease over)' if late else ''),0,n)
            if m.b>0:
                n=wo(); n.b-=1; n.slots.append((i,op,at,key,o_ns,fr)); add('%s/%s %d: no connection'%(nm(i),OPN[op],at),1,n)
        elif ph==s_:
            innet=(i,op,at,key) in m.net
            if not innet or m.b>0:
                n=wo(); n.slots.append((i,op,at,key,o_unk,fr))
                if innet: n.b-=1
                add('%s/%s %d: connection cut%s'%(nm(i),OPN[op],at,', participant still busy' if innet else ''),1 if innet else 0,n)
            if not innet or (not cfg.A2 and m.f>0):
                n=wo(); n.slots.append((i,op,at,key,o_over,fr))
                if innet: n.f-=1
                add('%s/%s %d: full timeout in the worker%s'%(nm(i),OPN[op],at,', participant still busy' if innet else ''),1 if innet else 0,n)
        else:
            n=wo()
            if cfg.version_drop and not fr: add('outcome %s of %s/%s %d dropped: version changed'%(ON[ph],nm(i),OPN[op],at),0,n)
            else:
                if outcome(cfg,n,i,op,at,ph): touch(n)
                add('outcome %s of %s/%s %d written'%(ON[ph],nm(i),OPN[op],at),0,n)
    # participant works on a request
    for t in set(m.net):
        i,op,at,key=t
        def base():
            n=m.copy(); n.net.remove(t); return n
        def ans(n,o):
            for u in n.slots:
                if u[0]==i and u[1]==op and u[2]==at and u[4]==s_:
                    n.slots.remove(u); n.slots.append(u[:4]+(o,)+u[5:]); break
        pt=m.parts[i]; kb=1<<key; who='participant, %s/%s %d: '%(nm(i),OPN[op],at)
        if op==0:
            if pt[1]&kb:
                n=base(); ans(n,o_ok); add(who+'known key, answers success again',0,n)
                if m.b>0: n=base(); n.b-=1; ans(n,o_ref); add(who+'known key, answers 409',1,n)
                continue
            if cfg.variant=='D' and not (m.steps[i][win_]>>at)&1:
                n=base(); ans(n,o_ref); add(who+'deadline over: no-op',0,n); continue
            if cfg.variant=='B' and pt[2]:
                n=base(); ans(n,o_ref); add(who+'barrier: no-op',0,n); continue
            jb=[j for j in m.jobs if j[0]==i and j[1]==0 and j[3]==key]
            if jb:
                n=base(); ans(n,o_acc); add(who+'job runs already, 202 (first callback URL kept)',0,n)
                n=base(); ans(n,o_acc); n.jobs.remove(jb[0]); n.jobs.append((i,0,at,key)); add(who+'job runs already, 202 (newest callback URL)',0,n)
                continue
        else:
            if pt[2]:
                n=base(); ans(n,o_ok); add(who+'known key, answers success again',0,n)
                if m.b>0: n=base(); n.b-=1; ans(n,o_ref); add(who+'known key, answers 409',1,n)
                continue
        def do(n):
            if op==0:
                n.parts[i][0]|=kb; n.parts[i][1]|=kb
            else:
                for d in cfg.trans[i]:
                    if n.parts[d][0] and d not in cfg.none and n.steps[d][cs_] not in (CF,RV) and not n.steps[d][csent_]&2: n.viol='V2 effect of %s undone while the effect of dependent %s stands'%(nm(i),nm(d))
                if n.steps[i][cs_]==RV: n.viol='U1 step %s settled by hand, then its late compensation undoes it again'%nm(i)
                n.parts[i][0]=0; n.parts[i][2]=1
        n=base(); do(n); ans(n,o_ok); add(who+'done, answers success',0,n)
        if m.b>0:
            n=base(); n.b-=1; ans(n,o_ref); add(who+'refuses',1,n)
            n=base(); n.b-=1; ans(n,o_over); add(who+'5xx without doing',1,n)
            n=base(); n.b-=1; do(n); ans(n,o_over); add(who+'5xx after doing',1,n)
            n=base(); n.b-=1; do(n); add(who+'done, answer lost',1,n)
        if cfg.async_:
            n=base(); n.jobs.append(t); ans(n,o_acc); add(who+'202, job started',0,n)
    # 202 jobs and callbacks
    for t in set(m.jobs):
        i,op,at,key=t; pt=m.parts[i]
        n=m.copy(); n.jobs.remove(t)
        if op==0:
            if cfg.variant=='B' and cfg.job_barrier and pt[2]: n.cbs.append((i,op,at,1))
            else: n.parts[i][0]|=1<<key; n.parts[i][1]|=1<<key; n.cbs.append((i,op,at,0))
        else: n.parts[i][0]=0; n.parts[i][2]=1; n.cbs.append((i,op,at,0))
        add('job of %s/%s %d ends, calls back'%(nm(i),OPN[op],at),0,n)
        if m.b>0:
            n=m.copy(); n.b-=1; n.jobs.remove(t); n.cbs.append((i,op,at,1)); add('job of %s/%s %d fails, calls back refused'%(nm(i),OPN[op],at),1,n)
            n=m.copy(); n.b-=1; n.jobs.remove(t); add('job of %s/%s %d is forgotten'%(nm(i),OPN[op],at),1,n)
    for t in set(m.cbs):
        i,op,at,rf=t
        for dup in (0,1):
            if dup and not (m.f>0): continue
            n=m.copy()
            if dup: n.f-=1
            else: n.cbs.remove(t)
            if outcome(cfg,n,i,op,at,o_ref if rf else o_ok): touch(n)
            add('callback %s/%s %d %s arrives%s'%(nm(i),OPN[op],at,'refused' if rf else 'success',' (and will again)' if dup else ''),dup,n)
    if fin:
        if m.st==C:
            for i,x in enumerate(m.steps):
                for at in range(1,8):
                    if not (x[cwin_]>>at)&1: continue
                    if cfg.A1 and any(u[0]==i and u[1]==1 and u[2]==at and u[4]==c_ for u in m.slots): continue
                    if cfg.A2 and any(u[0]==i and u[1]==1 and u[2]==at for u in m.net): continue
                    n=m.copy(); n.steps[i][cwin_]&=~(1<<at); add('lease of %s/comp %d is over'%(nm(i),at),0,n)
        if m.st==C and m.o>0: operator(cfg,m,add,touch,nm)
        elif cfg.ops and m.o>0: pass
        # a lease of an old attempt needs no event
        return out
    # leases, retries, re-sends
    def due(i,op): return cfg.min_wake or m.wk==i*2+op+1
    ps=paused(cfg,m)
    for i,x in enumerate(m.steps):
        for at in range(1,8):
            if not (x[win_]>>at)&1: continue
            if not due(i,0): continue
            pre=any(u[0]==i and u[1]==0 and u[2]==at and u[4]==c_ for u in m.slots)
            alive=any(u[0]==i and u[1]==0 and u[2]==at for u in m.slots)
            net=any(u[0]==i and u[1]==0 and u[2]==at for u in m.net)
            if pre and cfg.A1: continue
            if net and cfg.A2: continue
            cost=1 if (pre or net or alive) else 0
            if cost and m.f<=0: continue
            if ps and x[a_]!=R and not cost: pass
            n=m.copy(); n.f-=cost
            y=n.steps[i]
            if y[a_]==R and y[att_]==at:
                y[win_]&=~(1<<at)
                outcome(cfg,n,i,0,at,o_unk if cfg.lost_unknown else o_ns)
                n.steps[i][win_]&=~(1<<at); 
            else: y[win_]&=~(1<<at)
            advance(cfg,n); touch(n)
            add('lease of %s/action %d ends%s'%(nm(i),at,' (zombie alive)' if pre or alive else ' (request still under way)' if net else ''),cost,n)
        for at in range(1,8):
            if not (x[cwin_]>>at)&1 or not due(i,1): continue
            pre=any(u[0]==i and u[1]==1 and u[2]==at and u[4]==c_ for u in m.slots)
            alive=any(u[0]==i and u[1]==1 and u[2]==at for u in m.slots)
            net=any(u[0]==i and u[1]==1 and u[2]==at for u in m.net)
            if (pre and cfg.A1) or (net and cfg.A2): continue
            cost=1 if (pre or net or alive) else 0
            if cost and m.f<=0: continue
            n=m.copy(); n.f-=cost; y=n.steps[i]
            if y[cs_]==R and y[catt_]==at and n.st==K: outcome(cfg,n,i,1,at,o_unk)
            n.steps[i][cwin_]&=~(1<<at); advance(cfg,n); touch(n)
            add('lease of %s/comp %d ends%s'%(nm(i),at,' (zombie alive)' if pre or alive else ' (request still under way)' if net else ''),cost,n)
        if ps: continue
        if x[a_]==T and m.st==X and due(i,0) and not (m.want and i!=cfg.pivot):
            n=m.copy(); n.steps[i][a_]=S; n.steps[i][qa_]=1; touch(n); add('retry of %s due'%nm(i),0,n)
        if x[cs_]==T and m.st==K and due(i,1):
            n=m.copy(); n.steps[i][cs_]=S; n.steps[i][qc_]=1; touch(n); add('retry of %s/comp due'%nm(i),0,n)
        if cfg.redispatch:
            if x[a_]==S and m.st==X and not x[qa_] and due(i,0): n=m.copy(); n.steps[i][qa_]=1; add('re-send %s'%nm(i),0,n)
            if x[cs_]==S and m.st==K and not x[qc_] and due(i,1): n=m.copy(); n.steps[i][qc_]=1; add('re-send %s/comp'%nm(i),0,n)
        for op,stt in ((0,x[a_]),(1,x[cs_])):
            if stt==W and m.st==(X if op==0 else K):
                live=any(u[0]==i and u[1]==op for u in m.jobs) or any(u[0]==i and u[1]==op for u in m.cbs)
                if not live or m.b>0:
                    n=m.copy(); n.b-=1 if live else 0
                    outcome(cfg,n,i,op,x[att_] if op==0 else x[catt_],o_unk); 
                    touch(n); add('callback limit of %s/%s'%(nm(i),OPN[op]),1 if live else 0,n)
    if m.st==X and m.dl==0 and not ps:
        n=m.copy(); n.dl=1
        if not past_pivot(cfg,m):
            if pivot_open(cfg,n): n.want=1
            else: turn(cfg,n)
            advance(cfg,n)
        touch(n); add('saga timeout',1,n)
    if m.o>0: operator(cfg,m,add,touch,nm)
    if m.hold:
        n=m.copy(); n.hold=0; resume(cfg,n); touch(n); add('operator: resume',0,n)
    return out

def resume(cfg,n):
    advance(cfg,n)
def operator(cfg,m,add,touch,nm):
    for act in cfg.ops:
        if act=='cancel' and (m.st==X) and not past_pivot(cfg,m):
            n=m.copy(); n.o-=1
            if pivot_open(cfg,n): n.want=1; n.hold=0; advance(cfg,n)
            else: n.gc=1; turn(cfg,n,True); advance(cfg,n)
            touch(n); add('cancel answered 202',1,n)
        if act=='pause' and m.st in (X,K) and not m.hold:
            n=m.copy(); n.o-=1; n.hold=1; touch(n); add('operator: pause',1,n)
        if act=='retry':
            n=m.copy(); n.o-=1; hit=False
            if m.st==C:
                for x in n.steps:
                    if x[cs_]==CF:
                        x[cbud_]=0; hit=True
                        if cfg.retry_ordered: x[cs_]=P
                        else: x[cs_]=S; x[qc_]=1
                        if not cfg.att_monotone: x[catt_]=0
                if hit: n.st=K; advance(cfg,n)
            elif m.st==X:
                for x in n.steps:
                    if x[a_] in (T,EX) or (x[a_]==RF and past_pivot(cfg,m)):
                        hit=True; x[a_]=S; x[qa_]=1; x[bud_]=0
                        if not cfg.att_monotone: x[att_]=0
                if hit: advance(cfg,n)
            if hit:
                if n.hold and not m.hold==0 and cfg.held_bool: n.viol='O2 operator retry acknowledged, but the saga stays paused: nothing is ever sent'
                touch(n); add('operator: retry',1,n)
        if act=='retrykey' and m.st==X:   # retry with other input, hence another key; confirm_not_done where unknown
            for i,x in enumerate(m.steps):
                if (x[a_] in (T,EX)) and x[key_]==0:
                    n=m.copy(); n.o-=1; y=n.steps[i]; y[a_]=S; y[qa_]=1; y[bud_]=0; y[key_]=1
                    if cfg.clear_unk_confirm: y[unk_]=0
                    wrong = m.parts[i][0] or False
                    if x[unk_] and wrong: continue     # the operator confirms only what is true now
                    if cfg.quiet and cfg.retry_inflight_check and x[win_]: continue
                    advance(cfg,n); touch(n); add('operator: retry %s with new input and key%s'%(nm(i),', confirm_not_done (true at this moment)' if x[unk_] else ''),1,n)
        if act=='skip' and m.st==X:
            for i,x in enumerate(m.steps):
                if x[a_] in (T,EX) or (x[a_]==RF and past_pivot(cfg,m)) or (cfg.skip_running and x[a_] in (R,W)):
                    if cfg.skip_confirm and (x[win_] or (x[unk_] and m.parts[i][0])): continue
                    n=m.copy(); n.o-=1; y=n.steps[i]; y[a_]=SK; y[qa_]=0
                    advance(cfg,n); touch(n); add('operator: skip %s'%nm(i),1,n)
        if act=='resolve' and m.st in (C,K):
            for i,x in enumerate(m.steps):
                if x[cs_]==CF:
                    if cfg.resolve_waits and x[cwin_]: continue
                    n=m.copy(); n.o-=1; n.steps[i][cs_]=RV; n.parts[i][0]=0
                    if m.st==C: n.st=K
                    advance(cfg,n); touch(n); add('operator: resolve %s'%nm(i),1,n)
        if act=='abandon' and m.st in (X,K,C):
            n=m.copy(); n.o-=1; n.st=A; n.hold=0; touch(n); add('operator: abandon',1,n)

def show(cfg,z):
    m=dec(cfg,z)
    return SN[m.st]+(' paused' if paused(cfg,m) else '')+' '+' '.join('%s:%s#%d%s/%s#%d eff=%d'%('ABC'[i],AN[x[a_]],x[att_],'?' if x[unk_] else '',CN[x[cs_]],x[catt_],m.parts[i][0]) for i,x in enumerate(m.steps))

def explore(cfg,name='',quietly=False,stop_first=True,must_complete=False,allow=()):
    t0=time.time(); ini=initial(cfg).enc()
    seen={ini:0}; order=[ini]; parent=array.array('l',[-1]); lab=['']; frontier=0
    src=array.array('l'); dst=array.array('l')
    viols={}; trans=0; capped=False; good=bytearray()
    def trace(idx,extra=None):
        L=[] if extra is None else [extra]
        while parent[idx]>=0: L.append(lab[idx]); idx=parent[idx]
        return L[::-1]
    labels={}
    while frontier<len(order):
        z=order[frontier]; 
        m0=dec(cfg,z); g=1 if (rest(m0) or paused(cfg,m0)) else 0
        good.append(g)
        for label,fault,n in succ(cfg,z):
            trans+=1
            if not cfg.min_wake:
                for ii in range(cfg.n):
                    u,w=m0.steps[ii],n.steps[ii]
                    if u[a_]!=w[a_] or u[att_]!=w[att_]: n.wk=ii*2+1
                    if u[cs_]!=w[cs_] or u[catt_]!=w[catt_]: n.wk=ii*2+2
            v=check(cfg,n,allow)
            if v is None and rest(m0) and m0.st in (D,F,A) and n.st!=m0.st: v='T1 a final state changed'
            if v:
                k=v.split()[0]
                if k not in allow:
                    if k not in viols: viols[k]=(v,trace(frontier,label),show(cfg,n.enc()))
                continue
            e=n.enc(); j=seen.get(e)
            if j is None:
                j=len(order); seen[e]=j; order.append(e); parent.append(frontier); lab.append(labels.setdefault(label,label))
            if not fault: src.append(frontier); dst.append(j)
        frontier+=1
        if viols and stop_first: break
        if len(order)>cfg.cap: capped=True; break
    stuck=0
    if not viols and not capped:
        # liveness: EF rest over fault-free edges (backward reachability)
        N=len(order); cnt=array.array('l',[0])*(N+1)
        for d in dst: cnt[d+1]+=1
        for k in range(N): cnt[k+1]+=cnt[k]
        pos=array.array('l',cnt); adj=array.array('l',[0])*len(src)
        for k in range(len(src)): d=dst[k]; adj[pos[d]]=src[k]; pos[d]+=1
        q=[k for k in range(N) if good[k]]
        while q:
            k=q.pop()
            for p in range(cnt[k],cnt[k+1]):
                u=adj[p]
                if not good[u]: good[u]=1; q.append(u)
        for k in range(N):
            if not good[k]:
                stuck+=1
                if 'L2' not in viols: viols['L2']=('L2 no fault-free run from here comes to rest',trace(k),show(cfg,order[k]))
        if must_complete:
            for k in range(N):
                if dec(cfg,order[k]).st in (F,C) and 'M1' not in viols: viols['M1']=('M1 fails without a single fault',trace(k),show(cfg,order[k]))
    dt=time.time()-t0
    print('%-46s %9d states %10d transitions %6.1fs %s%s'%(name,len(order),trans,dt,'CAPPED ' if capped else '', 'VIOLATION '+','.join(sorted(viols)) if viols else ('no violation (bounded)' if capped else 'no violation')),flush=True)
    if not quietly:
        for k,(v,tr,sh) in sorted(viols.items()):
            print('   ',v)
            for n_,l in enumerate(tr): print('      %2d %s'%(n_+1,l))
            print('       =>',sh,flush=True)
    return viols,len(order),trans,capped
