//! Who has a namespace when several want it.

use headwater_e2e::Kind;

use crate::harness::{NEW, OBJECTS, Site, Tenant, eventually, holds, shared_hub};

/// Instances of two hubs want the same cluster at the same moment: one gets it, the other says whose it is and writes nothing
/// any more. When the first is gone, the second takes over what is there.
#[test]
fn two_hubs_claim_one_cluster() {
    let other = Site::hub(Kind::Plain);
    let target = Site::start(Kind::Plain);
    let tenants = [Tenant::new(shared_hub(), "claim-one"), Tenant::new(&other, "claim-two")];
    std::thread::scope(|scope| {
        for tenant in &tenants {
            let target = &target;
            scope.spawn(move || tenant.create("flux", &tenant.remote("flux", target, NEW)));
        }
    });
    let reason = |tenant: &Tenant<'_>| tenant.condition("flux", "Ready").map(|c| (c.status, c.reason));
    let is = |tenant: &Tenant<'_>, status: &str, why: &str| reason(tenant) == Some((status.to_owned(), why.to_owned()));
    let (has, wants) = eventually("one has it, and the other says so", 60, || {
        let [one, two] = &tenants;
        for (has, wants) in [(one, two), (two, one)] {
            if is(has, "True", "ReconciliationSucceeded") && is(wants, "False", "NamespaceClaimed") {
                return Ok((has, wants));
            }
        }
        Err(format!("{:?}, {:?}", reason(one), reason(two)))
    });
    let said = wants.condition("flux", "Ready").unwrap().message;
    assert_eq!(
        said,
        format!(
            "namespace flux-system of this cluster belongs to FluxInstance {}/flux; delete that one with deletionPolicy Orphan \
             to hand it over",
            has.namespace
        )
    );
    let objects = target.inventory_uids();
    assert_eq!(objects.len(), OBJECTS);
    let mark = target.audit_mark();
    for tenant in [wants, has, wants, has] {
        tenant.poke("flux");
    }
    assert_eq!(target.written_texts(mark), Vec::<String>::new(), "no ping-pong");

    has.delete("flux");
    has.gone("flux", 60);
    wants.poke("flux");
    wants.ready("flux");
    assert_eq!(target.inventory_uids(), objects, "nothing is recreated");
    let mark = target.audit_mark();
    wants.poke("flux");
    eventually("silence", 10, || {
        let written = target.written_texts(mark);
        holds(written.is_empty(), written)
    });
}
